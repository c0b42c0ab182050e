"""What two searches that are the same must agree on."""


def numbers(results):
    """The results of a search without what a second one measures differently."""

    def clean(value):
        if isinstance(value, dict):
            times = ("seconds", "command", "trials_at_a_time")
            return {key: clean(entry) for key, entry in value.items() if key not in times}
        return [clean(entry) for entry in value] if isinstance(value, list) else value

    return clean(results)
