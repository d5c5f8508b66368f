"""`make bench`: what the daemon costs, beside a bare aiohttp proxy measured in the same run.

Figures of one machine say little by themselves, so the ratio counts: CPU per request of the bare proxy over CPU per
request of the daemon, both taken in turn, both against the same upstream. `floors` has what must be reached.
"""
