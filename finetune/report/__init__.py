"""The report of a results folder: tables and pictures."""

from finetune.report.tables import FinetuneReport, JudgedClip, ReportError, finetune_report

__all__ = ["FinetuneReport", "JudgedClip", "ReportError", "finetune_report"]
