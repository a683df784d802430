"""The smallest application: one answer to every request.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker --chdir examples/hello_world app:hello_world
"""


async def hello_world(message, channels):
    content = b'<h1>Hello World</h1>'
    response = {
        'status': 200,
        'headers': [
            [b'content-type', b'text/html'],
        ],
        'content': content
    }
    await channels['reply'].send(response)
