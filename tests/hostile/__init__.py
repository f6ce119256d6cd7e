"""The attack on the forward path: what a hostile client or endpoint would send, as data.

    reading.py        a byte stream read strictly, message by message: what the endpoint goes by
    arena.py          a client, the proxy and a recording endpoint, played by one loop
    proxy.py          the proxy under attack, a process of its own
    differ.py         the same bytes read by other parsers; two readings are a failure
    peers.py          the same bytes read by nginx and HAProxy, where they are installed
    case.py           what a row of the tables is, and what may come of it
    requests_*.py     tables of requests: each row with its source and what must come of it
    answers_*.py      tables of answers of an endpoint
    test_requests.py  every request row, answered in time and answered early
    test_answers.py   every answer row
    fuzz.py           mutations of all of them: ``make fuzz SECONDS=600``
    finds/            what the fuzzer found, replayed by test_finds.py
    parsers.py        coverage-guided fuzzing of parsers: ``make fuzz-parsers SECONDS=600``

After each case a canary follows: a well-formed request of somebody else with a secret in its cookie,
through the same proxy and, if the case left one, over the same connection to the endpoint. It has
to arrive as it was sent, it has to be answered, and nobody else may see its secret.

A case fails in one of these ways, and ``Fault`` says in which:

- what came of it is none of what its row allows;
- what the endpoint received is not strictly well-formed, or two parsers read it differently;
- the canary was not answered, arrived changed, or its secret turned up elsewhere;
- the hostile client left, and a connection to the endpoint stayed open in the middle of a request.

A new case is a row. Its source is a section of an RFC or an advisory; where the RFC leaves a choice,
the row lists what is allowed with ``either``.
"""
