"""Audits runs: did the model's reasons change, where, and is it the data or the model?"""

from __future__ import annotations

from pipeline.audit.audit import audit, audit_directory, write_audit
from pipeline.audit.findings import Audit, Finding

__all__ = ["Audit", "Finding", "audit", "audit_directory", "write_audit"]
