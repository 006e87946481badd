"""Cards may hold their tokens encrypted: a longer column, an index of the forms, and tokens over HTTP with a record in any case.

Revision: 0021. Old code runs beside it, as long as ``CARDSYNC_TOKENS_AT_REST`` is ``clear``: it cannot read an
encrypted token. So set it to ``encrypted`` when no process of the release before runs any more (docs/deployment.md).
"""

from __future__ import annotations

from alembic import op

from cardsync import db

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# A token has at most 50 characters (Ottu's OpenAPI description), a ciphertext of one has more than 150: the length tells the form.
BOUND = r"""
ALTER TABLE cardsync.cards DROP CONSTRAINT IF EXISTS cards_token_bounded;
ALTER TABLE cardsync.cards ADD CONSTRAINT cards_token_bounded CHECK (
    length(token) BETWEEN 1 AND 50 OR (length(token) BETWEEN 100 AND 400 AND starts_with(token, 'c1.'))
) NOT VALID;
"""
VALIDATE = "ALTER TABLE cardsync.cards VALIDATE CONSTRAINT cards_token_bounded"

# Which secret key a token is encrypted with; nothing for one in the clear. Equal keys share one entry of a B-tree, so the index is
# small. `store.card_tokens` asks with this very expression.
FORMS = "cards (left(substr(token, 4, 16), greatest(length(token) - 50, 0))) WHERE token IS NOT NULL"

# No row at all would tell a service that the card cannot be charged. An error says where its token is to be had.
REFUSE = r"""
CREATE OR REPLACE FUNCTION cardsync.refuse_encrypted_token(p_card_id uuid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the token of card % is encrypted here (CARDSYNC_TOKENS_AT_REST)', p_card_id
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Read it over HTTP, with a key that has the scope tokens:read.';
END
$$;
REVOKE ALL ON FUNCTION cardsync.refuse_encrypted_token(uuid) FROM PUBLIC;
"""
VIEW = r"""
CREATE OR REPLACE VIEW registry.card_tokens WITH (security_barrier = true) AS
SELECT card_id, CASE WHEN length(token) <= 50 THEN token ELSE cardsync.refuse_encrypted_token(card_id) END AS token
FROM cardsync.cards WHERE status = 'active';
COMMENT ON VIEW registry.card_tokens IS
    'The tokens of active cards, for those who charge. An encrypted one raises an error: it is read over HTTP.';
"""

# The web's only way to a token: it cannot be had without its record, nor for a key that may not read tokens, nor of a card that is
# not active.
GIVE = r"""
CREATE OR REPLACE FUNCTION cardsync.give_tokens(p_key_id uuid, p_card_ids uuid[]) RETURNS TABLE (card_id uuid, token text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH given AS (
        SELECT c.card_id, c.token FROM cardsync.cards AS c
        WHERE c.card_id = ANY(p_card_ids) AND c.status = 'active' AND EXISTS (
            SELECT FROM cardsync.api_keys AS k
            WHERE k.key_id = p_key_id AND 'tokens:read' = ANY(k.scopes) AND k.revoked_at IS NULL
              AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())
        )
    ), noted AS (
        INSERT INTO cardsync.token_reads (key_id, card_id) SELECT p_key_id, given.card_id FROM given
    )
    SELECT given.card_id, given.token FROM given
$$;
REVOKE ALL ON FUNCTION cardsync.give_tokens(uuid, uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION cardsync.give_tokens(uuid, uuid[]) IS
    'Tokens of active cards as they are stored, for a key that may read tokens, with a record of each.';
"""


def upgrade() -> None:
    op.execute(BOUND)
    op.execute(REFUSE)
    op.execute(VIEW)
    op.execute(GIVE)
    with op.get_context().autocommit_block():
        op.execute(VALIDATE)
    db.make_index(op.get_context(), "cards_token_forms", FORMS)


def downgrade() -> None:
    # Only the secret key opens them, and a migration does not have it.
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM cardsync.cards WHERE length(token) > 50) THEN
                RAISE EXCEPTION 'cards hold encrypted tokens: set CARDSYNC_TOKENS_AT_REST=clear and run cardsync secret rotate';
            END IF;
        END $$;
        DROP INDEX cardsync.cards_token_forms;
        DROP FUNCTION cardsync.give_tokens(uuid, uuid[]);
        CREATE OR REPLACE VIEW registry.card_tokens WITH (security_barrier = true) AS
            SELECT card_id, token FROM cardsync.cards WHERE status = 'active';
        DROP FUNCTION cardsync.refuse_encrypted_token(uuid);
        ALTER TABLE cardsync.cards DROP CONSTRAINT cards_token_bounded;
        ALTER TABLE cardsync.cards ADD CONSTRAINT cards_token_bounded CHECK (length(token) BETWEEN 1 AND 50) NOT VALID;
        """
    )
