"""The root of the errors that a user can mend."""


class UserError(ValueError):
    """Input, a setting, weights, a folder or a machine that cannot be used as it is.

    Every stage raises its own kinds of it, with what was found, what was expected and the next
    command; `data_pipeline.command_line.run_command` tells them in one message, without a
    traceback. An error that is no UserError is a fault of the program. It is a ValueError, since
    pydantic takes one that a config's own checks raise for a mistake in the config.
    """
