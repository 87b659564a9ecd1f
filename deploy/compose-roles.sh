#!/bin/sh
# Makes the owner of the tables, the role of panel and workers, and the database. The image of
# PostgreSQL runs this when it starts without data. The passwords come from the environment.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv owner_password OWNER_PASSWORD
\getenv panel_password PANEL_PASSWORD
CREATE ROLE billing LOGIN PASSWORD :'owner_password';
CREATE ROLE panel LOGIN PASSWORD :'panel_password';
CREATE DATABASE billing OWNER billing ENCODING 'UTF8' LOCALE 'C.UTF-8' TEMPLATE template0;
SQL
