"""What an evaluation leaves behind: results.jsonl, the workbook, the report of one run."""
