# Yours: what the pipelines build deploy/Dockerfile on. Renovate pins it by digest and keeps the digest fresh.
{% if cookiecutter.team.image_base is defined %}
# Nothing here: the answer `team` names {{ cookiecutter.team.image_base }}, and a changed answer arrives by an update.
{% else %}
FROM python:3.13-slim-trixie
{% endif %}
