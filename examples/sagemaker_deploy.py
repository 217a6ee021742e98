"""Put a model onto a SageMaker endpoint, ask it, and take it down again.

    python examples/sagemaker_deploy.py                # says what it would send, and sends nothing
    python examples/sagemaker_deploy.py --deploy --image IMAGE --role ARN --model s3://BUCKET/PATH/

The folder at --model is what `encoder.save(FOLDER)` wrote, copied as it is (`aws s3 cp
--recursive`); its URI ends in a slash. A URI that ends in .tar.gz names an archive of the folder's
files. Needs `pip install 'taskvec[sagemaker]'`. An endpoint costs money for as long as it is there:
this one is deleted at the end, unless --keep says otherwise.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.exceptions import ParamValidationError
from botocore.session import get_session
from botocore.validate import validate_parameters

from taskvec.core import SageMakerEncoder

PLACEHOLDERS = {
    "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/taskvec:0.1.0",
    "role": "arn:aws:iam::123456789012:role/taskvec",
    "model": "s3://your-bucket/model/",
}
QUESTION = "how do I parse JSON?"
PASSAGES = ["json.loads() turns JSON text into Python objects.", "time.sleep() waits."]

Request = tuple[str, dict[str, Any]]


def main() -> int:
    """Show the requests, or send them. Returns the exit code."""
    options = read_options()
    try:
        for operation, parameters in [*requests_of(options), *cleanup_of(options)]:
            check(operation, parameters)
    except ParamValidationError as error:
        reason = " ".join(str(error).split())
        print(f"{operation} would be refused: {reason}", file=sys.stderr)
        return 2
    if not options.deploy:
        for operation, parameters in [*requests_of(options), *cleanup_of(options)]:
            print(f"{operation} {json.dumps(parameters, indent=2)}")
        print("All of these have the shape that SageMaker takes. Nothing was sent: --deploy does.")
        return 0
    client = boto3.client("sagemaker", region_name=options.region)
    with (
        deployed(client, options),
        SageMakerEncoder(options.name, region=options.region) as encoder,
    ):
        stored = encoder.encode(PASSAGES, task="retrieval.passage")
        query = encoder.encode(QUESTION, task="retrieval.query")
        print(f"{QUESTION} {PASSAGES[int((stored @ query).argmax())]}")
        print(encoder.fingerprint("retrieval.passage"))
    return 0


def requests_of(options: argparse.Namespace) -> list[Request]:
    """What makes an endpoint: a model, its configuration, the endpoint."""
    archive = options.model.endswith(".tar.gz")
    source = {
        "S3Uri": options.model,
        "S3DataType": "S3Object" if archive else "S3Prefix",
        "CompressionType": "Gzip" if archive else "None",
    }
    container = {
        "Image": options.image,
        "ModelDataSource": {"S3DataSource": source},
        "Environment": dict(pair.split("=", 1) for pair in options.env),
    }
    variant = {
        "VariantName": "all",
        "ModelName": options.name,
        "InstanceType": options.instance,
        "InitialInstanceCount": 1,
        "ContainerStartupHealthCheckTimeoutInSeconds": 600,
    }
    return [
        (
            "CreateModel",
            {
                "ModelName": options.name,
                "ExecutionRoleArn": options.role,
                "PrimaryContainer": container,
            },
        ),
        (
            "CreateEndpointConfig",
            {"EndpointConfigName": options.name, "ProductionVariants": [variant]},
        ),
        ("CreateEndpoint", {"EndpointName": options.name, "EndpointConfigName": options.name}),
    ]


def cleanup_of(options: argparse.Namespace) -> list[Request]:
    """What takes it down, the last thing made first."""
    return [
        ("DeleteEndpoint", {"EndpointName": options.name}),
        ("DeleteEndpointConfig", {"EndpointConfigName": options.name}),
        ("DeleteModel", {"ModelName": options.name}),
    ]


def check(operation: str, parameters: dict[str, Any]) -> None:
    """Raises botocore's ParamValidationError for a request of another shape than the API's."""
    model = get_session().get_service_model("sagemaker")
    validate_parameters(parameters, model.operation_model(operation).input_shape)


@contextmanager
def deployed(client: Any, options: argparse.Namespace) -> Iterator[None]:
    """An endpoint that answers. What was made for it goes at the end, or where a step fails."""
    made = 0
    try:
        for operation, parameters in requests_of(options):
            send(client, operation, parameters)
            made += 1
        print("waiting for the endpoint, some minutes", flush=True)
        client.get_waiter("endpoint_in_service").wait(EndpointName=options.name)
        yield
    finally:
        if not options.keep:
            for operation, parameters in cleanup_of(options)[3 - made :]:
                try:
                    send(client, operation, parameters)
                except client.exceptions.ClientError as error:
                    print(f"{operation} {parameters}: {error}", file=sys.stderr)


def send(client: Any, operation: str, parameters: dict[str, Any]) -> None:
    """Send one request of these."""
    print(operation, flush=True)
    method = {name: own for own, name in client.meta.method_to_api_mapping.items()}[operation]
    getattr(client, method)(**parameters)


def read_options() -> argparse.Namespace:
    """The command line's options; what a deployment needs is asked for where there is one."""
    parser = argparse.ArgumentParser(description="Put a model onto a SageMaker endpoint.")
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--dry-run", action="store_true", help="send nothing (the default)")
    doing.add_argument("--deploy", action="store_true", help="send the requests, and then ask")
    parser.add_argument("--image", help="the image in ECR, built from docker/Dockerfile")
    parser.add_argument("--role", help="ARN of the role that SageMaker takes")
    parser.add_argument("--model", help="s3://…/ of the model's folder, or s3://….tar.gz")
    parser.add_argument("--name", default="taskvec", help="of all that is made")
    parser.add_argument("--region", help="default: boto3's own")
    parser.add_argument("--instance", default="ml.c7i.xlarge", help="such as ml.g5.xlarge")
    parser.add_argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="such as TASKVEC_DTYPE=…"
    )
    parser.add_argument("--keep", action="store_true", help="leave the endpoint there")
    options = parser.parse_args()
    for name, placeholder in PLACEHOLDERS.items():
        if getattr(options, name) is None:
            if options.deploy:
                parser.error(f"--deploy needs --{name}, such as {placeholder}")
            setattr(options, name, placeholder)
    if not options.model.startswith("s3://") or not options.model.endswith(("/", ".tar.gz")):
        parser.error(f"--model {options.model!r}: expected s3://…/ of a folder, or s3://….tar.gz")
    if wrong := [pair for pair in options.env if "=" not in pair]:
        parser.error(f"--env {wrong[0]!r}: expected NAME=VALUE")
    return options


if __name__ == "__main__":
    sys.exit(main())
