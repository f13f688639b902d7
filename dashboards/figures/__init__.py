"""Every figure of the dashboard and of the report: units on each axis, shape and words beside each colour.

Figures take the frames of :mod:`dashboards.queries` and return Plotly figures in the look of :mod:`dashboards.look`.
"""
