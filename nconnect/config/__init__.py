"""The configuration file and its single values: text in, checked `nconnect.model` values out. Pure.

Nothing here opens a file or asks the clock; what is needed from outside (a seed file's text, the key of a
seed, the time) is passed in. The command line reads its options with the same functions, so a mistake is
described in the same words wherever it is made.

    text (TOML 1.0, by tomllib)
      |
      v
    file.parse_config ---> table.Table: each key once, by a reader ---> values, proxy, accept_routes, seed_url
      |                 `-- what is wrong --> table.Problems --> locate.Lines: the line of a key
      v                                                              |
    model.Config, frozen                            ConfigError: one line for each mistake, all at once
                                                    FILE:LINE: [section] field: what is wrong, what to do

    file             the sections, and what only the sections together show (`_check_whole`)
    table, locate    one table read key by key, unknown keys refused; where in the text a key stands
    values           one value: a name, key, prefix, port, time, `allow` rule
    proxy            a proxy's URL, the environment's proxy, and which destinations go by it
    seed_url         a seed's URL and the certificate that it pins
    private          private networks (RFC 1918, RFC 4193)
    accept_routes    which prefixes that a provider names are routed without asking
    edit             the other way: changes a file's text and keeps its comments and layout (tomlkit)

A reader is a function from one TOML value to one checked value. It raises `ConfigError` with a text that
continues "[section] field: …" and says what to write instead; it never quotes a secret.

To add a setting: a field with its default in `nconnect.model`; in `file`, one `take` in the section's
function, with a reader from `values` or `table`; a check across sections, if it needs one, in `_check_whole`;
docs/configuration.md; a test of the value and of each mistake. `nconnect.daemon.reload` decides what a
running daemon does when the value changes.
"""
