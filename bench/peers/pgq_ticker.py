"""PgQ's ticker and maintenance, as its daemon does them: pgq.ticker() once a period, and what
pgq.maint_operations() lists once another.

Run as a program; its orders come as JSON on standard input: dsn, name (of the session), tick_period and
maintenance_period in seconds.
"""

import json
import sys
import time

import psycopg
from psycopg import sql


def maintain(conn):
    """One round of maintenance. A function that returns 1 wants to be called again."""
    for function, argument in conn.execute("select func_name, func_arg from pgq.maint_operations()").fetchall():
        if function == "vacuum":
            conn.execute(sql.SQL("vacuum {}").format(sql.Identifier(*argument.split("."))))
            continue
        arguments = [] if argument is None else [argument]
        call = sql.SQL("select {}({})").format(sql.Identifier(*function.split(".")),
                                               sql.SQL(", ").join(map(sql.Literal, arguments)))
        while conn.execute(call).fetchone()[0] == 1:
            pass


def main():
    orders = json.load(sys.stdin)
    with psycopg.connect(orders["dsn"], autocommit=True, application_name=orders["name"],
                         options="-c synchronous_commit=off") as conn:
        tick = maintenance = time.monotonic()
        while True:
            conn.execute("select pgq.ticker()")
            if time.monotonic() >= maintenance:
                maintain(conn)
                maintenance = time.monotonic() + orders["maintenance_period"]
            tick += orders["tick_period"]
            time.sleep(max(0.0, tick - time.monotonic()))


if __name__ == "__main__":
    main()
