"""The bookshop's Celery app, with a Lash in it. Nothing but the last line is new.

celery -A bookshop worker -P threads -c 20    # serves the bookshop's queue and all lash queues
celery -A bookshop worker -Q labels           # the label printer knows nothing of agents
"""

from celery import Celery

from lash_tasks import Lash

app = Celery("bookshop")
app.config_from_object("bookshop.celeryconfig")

lash = Lash(agents=["bookshop.agents:clerk"], celery=app)
