-- Template-owned: updates replace it. Runs once, when PostgreSQL makes its files: two roles, as docs/data.md says.
-- The passwords are those of the URLs that the server and its migrations use.
\set ON_ERROR_STOP on
\set owner_password `sed 's|.*://[^:]*:\([^@]*\)@.*|\1|' /run/secrets/database_migration_url`
\set server_password `sed 's|.*://[^:]*:\([^@]*\)@.*|\1|' /run/secrets/database_url`

CREATE ROLE {{ cookiecutter.__package }}_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE {{ cookiecutter.__package }}_server LOGIN PASSWORD :'server_password';
CREATE DATABASE {{ cookiecutter.__package }} OWNER {{ cookiecutter.__package }}_owner;
REVOKE ALL ON DATABASE {{ cookiecutter.__package }} FROM PUBLIC;
GRANT CONNECT ON DATABASE {{ cookiecutter.__package }} TO {{ cookiecutter.__package }}_server;
