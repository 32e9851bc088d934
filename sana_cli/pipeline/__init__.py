"""From a request to a picture: `SanaPipeline` and the stages that it runs."""
