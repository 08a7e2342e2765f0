"""What finished runs say: tables, figures, verdicts, as text, Markdown and HTML."""
