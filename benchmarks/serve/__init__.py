"""`taskvec serve` under load: beside the encoder in process, beside other servers, and for long."""
