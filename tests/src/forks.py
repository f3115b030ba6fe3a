"""Forks a process for each connection, because it takes a second to load Python's packages and the SDK's models.

The first line of a connection is null for boto3, or the environment of a MiniStack. The answer is the process's ID. The process ends
with its connection, and this program with its standard input."""

import functools, gc, json, os, select, shutil, signal, socket, sys, tempfile, time, traceback

import boto3, botocore.config, botocore.exceptions, botocore.session
import docker, h11, hypercorn.asyncio, hypercorn.protocol, jsonata, yaml

SERVICES = [
    'apigatewayv2', 'cloudformation', 'cloudwatch', 'dynamodb', 'ec2', 'iam', 'lambda', 'logs', 's3', 'secretsmanager', 'sts',
]
# In place of the stand-in's URL, which each question names.
NOWHERE = 'http://127.0.0.1:1'
SESSION = botocore.session.Session()
stand_in = NOWHERE


def answer(connection):
    """Evaluates one expression for each line, for the stand-in at its URL."""
    global stand_in
    for line in connection:
        try:
            stand_in, expression = json.loads(line)
            reply = json.dumps({'value': eval(expression)}, default=str)
        except Exception:
            reply = json.dumps({'error': traceback.format_exc()})
        print(reply, file=connection, flush=True)


@functools.cache
def client(service, key='test'):
    config = botocore.config.Config(parameter_validation=False, retries={'total_max_attempts': 1})
    created = boto3.client(service, endpoint_url=NOWHERE, region_name='us-east-1', aws_access_key_id=key, aws_secret_access_key='test',
                           config=config)
    created.meta.events.register_first('request-created', to_stand_in)
    return created


def to_stand_in(request, **_):
    request.url = request.url.replace(NOWHERE, stand_in, 1)


def tried(call):
    try:
        return call()
    except botocore.exceptions.ClientError as error:
        return [error.response['ResponseMetadata']['HTTPStatusCode'], error.response['Error']['Code']]
    except botocore.exceptions.BotoCoreError as error:
        return type(error).__name__


def run_ministack(environment):
    os.environ.update(environment)
    # Not the parent's.
    tempfile.tempdir = None
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    sys.argv = ['ministack']
    from ministack.app import main
    main()


def end_group_with(connection, directory):
    """Also ends functions whose MiniStack has died."""
    connection.read()
    shutil.rmtree(directory, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def load():
    boto3.setup_default_session(botocore_session=SESSION)
    # MiniStack would load its models again for each service.
    botocore.session.get_session = lambda: SESSION
    for service in SERVICES:
        client(service)
    # The parser in Python takes ten times as long as libyaml for the same result, and is half of what a deployment costs MiniStack.
    yaml.SafeLoader = yaml.CSafeLoader
    # Garbage is collected rarely, because it lives for minutes.
    gc.set_threshold(100_000)
    gc.freeze()


def begin(connection):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    lines = connection.makefile('rw', encoding='utf-8')
    connection.close()
    environment = json.loads(lines.readline())
    if environment and os.fork() != 0:
        end_group_with(lines, environment['TMPDIR'])
    print(os.getpid(), file=lines, flush=True)
    if environment:
        run_ministack(environment)
    else:
        answer(lines)


def serve(directory):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(directory, 'socket'))
    listener.listen(64)
    print(listener.getsockname(), flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            # Whatever happens, the child must not go on as the parent.
            try:
                begin(connection)
            finally:
                os._exit(0)
        connection.close()


load()
with tempfile.TemporaryDirectory() as directory:
    serve(directory)
