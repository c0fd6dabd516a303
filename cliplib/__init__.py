"""cliplib: the model, training, evaluation and fitting code behind the book.

Reading order: ``ladder`` (what is trained), ``corpus`` (on what), ``data``, ``model``, ``train``,
``evaluate``, then ``laws`` and ``figures``. A module imports only from those before it.
Heavy libraries are imported where they are used, so that ``python -m cliplib --help`` is instant.
"""

__version__ = "0.1.0"


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what to do.

    The command line prints it as one line and exits with status 2.
    """
