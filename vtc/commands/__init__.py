"""The verbs of the ``vtc`` command, a file each: ``arguments(parser)`` and ``run(given)``.

Those that read packages import of vtc the runtime alone, so they work where its compiler is not.
"""
