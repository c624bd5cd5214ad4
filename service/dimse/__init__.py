"""DIMSE from the client's side, one module for each service; `service.scu` is its front."""
