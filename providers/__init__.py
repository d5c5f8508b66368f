"""The providers: one adapter per upstream service, the wire forms that several of them share, and a simulator of each.
An adapter knows its provider's wire format and failures and nothing of queue, store, clock or configuration.
"""
