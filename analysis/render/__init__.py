"""From sections to HTML, Markdown, LaTeX and the terminal."""
