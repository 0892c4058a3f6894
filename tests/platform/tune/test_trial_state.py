"""The actor that holds the state of trials, without Ray."""

import asyncio

from bacl_platform.tune.trial_state import TrialStateActor


def test_abandoned_state_stops_no_variant_and_keeps_no_bank_waiting():
    async def story():
        state = TrialStateActor([], ["cell"])
        await state.abandon("the driver was stopped")
        await state.stop("cell")
        found = await asyncio.wait_for(state.verdict(["cell"], 1), 5)
        return found, await state.stopped()

    assert asyncio.run(story()) == ([], [])
