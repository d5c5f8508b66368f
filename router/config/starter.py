"""The routing file that `pointsman init` writes, and that is shipped as config/routing.yaml: one text. It stands here,
because this package reads no file. A test holds the two equal; write the file anew after a change here. Floor 1.
"""

from __future__ import annotations

_TEXT = """\
# Pointsman routing: which providers there are, which models callers may ask for, and who makes the pictures.
#
# Fill in: put the keys of your accounts into the environment (or into .env), under the names below. A provider whose
# key is not set is left out, with a warning. Then:
#
#   pointsman check     every problem of this file with its line; warnings of requests without a fallback
#   pointsman explain --model gpt-image-2 --size 1024x1024     who would get such a request, and why not the others
#   pointsman serve     starts the daemon; from then on each saved change of this file takes effect by itself,
#                       and a change with a problem changes nothing
#
# An unknown key is a problem, never ignored. Durations carry their unit: 500ms, 8s, 1m, 24h, 30d. Prices are in USD.

version: 1
timezone: UTC                     # of budgets and of `hours` in rules; any IANA name, such as Europe/Berlin

defaults:
  sync_wait: 540s                 # the longest that a synchronous call waits; below the 600 s of OpenAI's SDKs
  link_ttl: 24h                   # how long a link to a result works
  retention: 30d                  # results and inputs are removed this long after the end
  row_retention: 400d             # the records without them stay this long
  queue: {max_pending: 100000, per_tenant: 20000}   # beyond these a submit is answered with 429

default_model: {image: gpt-image-2}     # for requests that name no model
aliases: {dall-e-3: gpt-image-2}        # for clients that still ask for the old name

# An account at an upstream. `${NAME}` is a variable of the environment; `file:/run/secrets/name` works, too.
providers:
  openai:
    adapter: openai               # base_url may be any server that speaks OpenAI's images form
    api_key: "${OPENAI_API_KEY}"
    max_concurrency: 16           # attempts at the same time
    rate_limit: 50/1m             # starts in a time; set it to the limit of your account
  apiyi:
    adapter: apiyi
    api_key: "${APIYI_API_KEY}"   # several accounts: api_keys: ["${APIYI_KEY_1}", "${APIYI_KEY_2}"]
    max_concurrency: 16
  flux:
    adapter: bfl
    api_key: "${BFL_API_KEY}"
    max_concurrency: 20           # the provider allows 24 active tasks
    breaker:                      # when a target is left alone; these are the defaults
      consecutive_failures: 5
      failure_rate: 0.5           # of at least `minimum` attempts within `window`
      minimum: 10
      window: 60s
      open_for: 30s               # the first time, then longer each time up to open_max
      open_max: 300s

models:
  gpt-image-2:
    kind: image
    strategy: ordered             # ordered (as listed) | cheapest | weighted (by `weight` of each target)
    on_failure: next              # next (as listed) | cheapest: who comes after a failure
    targets:
      - {provider: openai, model: gpt-image-2, price: catalogue}      # catalogue: the row in config/prices.yaml
      - provider: apiyi
        model: gpt-image-2
        # It bills about the vendor's list price; hold these against your invoice.
        price:
          image: {"low:1024x1024": 0.006, "medium:1024x1024": 0.053, "high:1024x1024": 0.211}
          tokens: {input: 5, image_input: 8, image_output: 30}
      - {provider: flux, model: flux-2-pro, price: catalogue}
    rules:                        # the first whose `when` matches wins; what a rule leaves out is as above
      - when: {quality: low}      # whoever is cheapest
        strategy: cheapest
      - when: {size: ["2048x2048", "3840x2160", "2160x3840"]}
        timeout: 600s             # of one attempt; unset, it goes by kind and size
    retry:                        # these are the defaults
      per_target: 2               # repeats of one target after its first try
      total: 4                    # attempts of a task, the first included
      backoff: {first: 500ms, max: 8s}
      retry_unknown: never        # never | if_idempotent | always: repeat a try that may have been paid for?
      retry_unusable: never       # never | failover: pay another provider after a paid answer without a picture?
      on_refusal: fail            # fail | failover: ask another provider after a refusal by content policy?

  sketch:                         # a second model, for drafts
    kind: image
    strategy: cheapest
    targets:
      - {provider: flux, model: flux-2-klein-4b, price: catalogue}
      - {provider: apiyi, model: gpt-image-2-vip, price: catalogue}
      - {name: apiyi-all, provider: apiyi, model: gpt-image-2-all, price: catalogue}   # a second target has a name

# Limits of spending. scope: tenant | key | provider | model | all; window: hour | day | month | total.
# Where a budget applies, targets without a price are left out.
budgets: []
#  - {scope: tenant, match: "*", window: day, limit: 20}              # each tenant for itself
#  - {scope: provider, match: openai, window: month, limit: 500}

# Limits of tenants; "*" is for those that are not named.
tenants: {}
#  studio: {weight: 3, max_concurrency: 20, rate_limit: 100/1m, models: [gpt-image-2]}
#  agency: {webhook_secrets: ["${AGENCY_WEBHOOK_SECRET}"]}          # whsec_...; else GET /v1/webhook_secret has one
#  "*": {max_concurrency: 10}
"""


def starter() -> str:
    """The text of a first routing file: commented, and good to serve once a key is set."""
    return _TEXT
