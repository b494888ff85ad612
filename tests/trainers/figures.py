"""What a picture shows, without a file."""

from trainers import drawing


def texts(monkeypatch, draw):
    """Draws without writing, and returns every text in the picture."""
    figures = []
    monkeypatch.setattr(drawing, "save", lambda f, path: figures.append(f))
    draw()
    [figure] = figures
    figure.canvas.draw()
    from matplotlib.text import Text

    found = [t for t in figure.findobj(Text) if t.get_text()]
    return figure, {t.get_text(): t for t in found}
