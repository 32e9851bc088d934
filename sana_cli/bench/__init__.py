"""`sana bench`: what is timed, against which ceilings, and what that predicts for other devices."""
