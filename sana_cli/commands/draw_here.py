"""Draw what a call of `sana generate` asks for on this machine. Without Typer, which takes longer to import than to ask."""

from typing import TYPE_CHECKING

from sana_cli.commands.generate_call import Call
from sana_cli.config.generation import GenerationOptions
from sana_cli.system.collector import collect_nothing
from sana_cli.system.preload import preload_torch, use_the_wait
from sana_cli.terminal.display import LivePreview

if TYPE_CHECKING:
    from sana_cli.config.user_settings import UserSettings


def begin_to_load() -> None:
    """Begin what takes longest, in a thread: call it as soon as it is known that a picture is drawn here."""
    collect_nothing()
    preload_torch()


def draw_here(call: Call, chosen: "UserSettings", *, offline: bool, yes: bool, quiet: bool) -> None:
    """Open the model, and draw what is left; a server may draw batches and repeated pictures."""
    if not call.is_dry and call.is_local:
        begin_to_load()
    from sana_cli.commands.generate_session import GenerateSession
    from sana_cli.commands.repeat import open_model
    from sana_cli.pipeline.safety import SafetyCheck
    from sana_cli.terminal.progress_bars import ConsoleReporter

    use_the_wait()
    checks = None
    if call.is_checked:
        checks = SafetyCheck.find(chosen.safety_model, set_by=call.check_source)
    prompts = call.prompts
    with ConsoleReporter(quiet=quiet) as reporter:
        for problem in call.notices():
            reporter.notice(problem)
        live = LivePreview(call.seeing, reporter)

        def opened(options: GenerationOptions, *, grid: bool = False) -> GenerateSession:
            checkpoint = open_model(
                options, call.picture, offline=offline, yes=yes, reporter=reporter,
                planning=call.is_dry, default=chosen.options.model,
            )  # fmt: skip
            if call.picture:
                call.picture.tell_differences(
                    call.typed, checkpoint, reporter, hed=options.control_hed
                )
            return GenerateSession(
                options=options, checkpoint=checkpoint, overwrite=call.overwrite, grid=grid,
                reporter=reporter, safety=checks, watching=live.watching,
                artist=call.artist(reporter), given=call.left,
            )  # fmt: skip

        if call.axes:
            from sana_cli.commands.sweep import sweep

            sweep(call, opened, live=live, reporter=reporter)
            return
        session = opened(call.options, grid=call.grid)
        if call.best_of and not call.is_dry:
            from sana_cli.commands.best_of import BestOf

            BestOf(call, session, *call.best_of).draw(live)
            return
        if call.is_dry and prompts:
            from sana_cli.commands.generate_batch import print_forecast

            print_forecast(session, prompts, json=call.json)
        elif call.is_dry:
            session.print_forecast(call.picture, json=call.json)
        elif prompts and call.cluster:
            from sana_cli.commands.generate_cluster import ClusterBatch

            batch = ClusterBatch(session, call.cluster, json=call.json, offline=offline)
            batch.draw(prompts)
        elif prompts:
            call.draw_batch(session, prompts, live=live)
        else:
            call.draw(session, live=live)
