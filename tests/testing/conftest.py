"""The fixture as an application's tests get it, without the plugin being on for every test of ours."""

from lash_tasks.testing import scripted_lash

__all__ = ["scripted_lash"]
