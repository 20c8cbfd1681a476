// The baseline of the benchmark `reads`: a server that answers each GET with statements of its own.
//
// It is as fast as that method allows: fasthttp, prepared statements on 16 connections of pgx, a client that
// pipelines the Redis commands of all connections, bodies appended without reflection, and no log.
//
//	reader ADDRESS POSTGRES REDIS SHARD
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
	"github.com/valyala/fasthttp"
)

const (
	connections = 16
	pageSize    = 50

	chatSQL = `SELECT c.messages_removed, c.created_at, c.updated_at FROM application a
		JOIN chat c ON c.application_id = a.id AND c.number = $2
		WHERE a.token = $1 AND a.removed_at IS NULL AND c.state = 'stored'`
	messageSQL = `SELECT m.text, m.created_at, m.updated_at, m.version FROM application a
		JOIN chat c ON c.application_id = a.id AND c.number = $2
		JOIN message m ON m.chat_id = c.id AND m.number = $3
		WHERE a.token = $1 AND a.removed_at IS NULL AND c.state = 'stored' AND m.state = 'stored'`
	pageSQL = `SELECT c.messages_removed, m.number, m.text, m.created_at, m.updated_at FROM application a
		JOIN chat c ON c.application_id = a.id AND c.number = $2
		LEFT JOIN LATERAL (SELECT * FROM message WHERE chat_id = c.id AND number > $3
			AND state = 'stored' ORDER BY number LIMIT $4) m ON true
		WHERE a.token = $1 AND a.removed_at IS NULL AND c.state = 'stored'`
	chatsSQL = `SELECT a.chats_removed, c.number, c.messages_removed, c.created_at, c.updated_at
		FROM application a LEFT JOIN LATERAL (SELECT * FROM chat WHERE application_id = a.id
			AND number > $2 AND state = 'stored' ORDER BY number LIMIT $3) c ON true
		WHERE a.token = $1 AND a.removed_at IS NULL`
	searchSQL = `SELECT c.messages_removed, m.number, m.text, m.created_at, m.updated_at FROM application a
		JOIN chat c ON c.application_id = a.id AND c.number = $2
		LEFT JOIN LATERAL (SELECT * FROM message WHERE chat_id = c.id AND number > $3
			AND state = 'stored' AND strpos(folded COLLATE "C", $5) > 0 ORDER BY number LIMIT $4) m ON true
		WHERE a.token = $1 AND a.removed_at IS NULL AND c.state = 'stored'`
)

type reader struct {
	sql       *pgxpool.Pool
	redis     rueidis.Client
	keyPrefix string // of the shard's keys in Redis
}

func main() {
	config, err := pgxpool.ParseConfig(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns, config.MinConns = connections, connections
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}
	options := rueidis.MustParseURL(os.Args[3])
	options.DisableCache = true
	client, err := rueidis.NewClient(options)
	if err != nil {
		log.Fatal(err)
	}
	server := &fasthttp.Server{Handler: (&reader{pool, client, os.Args[4]}).serve}
	log.Fatal(server.ListenAndServe(os.Args[1]))
}

// GET /api/v1/applications/TOKEN/chats[/CHAT[/messages[/NUMBER]]]
func (r *reader) serve(request *fasthttp.RequestCtx) {
	parts := strings.Split(string(request.Path()), "/")
	if len(parts) < 6 {
		request.SetStatusCode(404)
		return
	}
	ctx, token := context.Background(), parts[4]
	numbers := make([]int64, 0, 2)
	for place := 6; place < len(parts); place += 2 {
		number, err := strconv.ParseInt(parts[place], 10, 64)
		if err != nil {
			request.SetStatusCode(404)
			return
		}
		numbers = append(numbers, number)
	}
	body := make([]byte, 0, 512)
	var err error
	switch len(parts) {
	case 6:
		body, err = r.chats(ctx, body, token, request.QueryArgs())
	case 7:
		body, err = r.chat(ctx, body, token, numbers[0])
	case 8:
		body, err = r.messages(ctx, body, token, numbers[0], request.QueryArgs())
	default:
		var version int64
		body, version, err = r.message(ctx, body, token, numbers[0], numbers[1])
		request.Response.Header.Set("ETag", `"`+strconv.FormatInt(version, 10)+`"`)
	}
	switch {
	case err == pgx.ErrNoRows:
		request.SetStatusCode(404)
	case err != nil:
		request.SetStatusCode(503)
	default:
		request.SetContentType("application/json")
		request.SetBody(body)
	}
}

func (r *reader) message(
	ctx context.Context, body []byte, token string, chat, number int64,
) ([]byte, int64, error) {
	var text string
	var created, updated time.Time
	var version int64
	row := r.sql.QueryRow(ctx, messageSQL, token, chat, number)
	if err := row.Scan(&text, &created, &updated, &version); err != nil {
		return nil, 0, err
	}
	return appendMessage(body, number, []byte(text), created, updated), version, nil
}

func (r *reader) messages(
	ctx context.Context, body []byte, token string, chat int64, query *fasthttp.Args,
) ([]byte, error) {
	limit, after := pageOf(query)
	statement, values := pageSQL, []any{token, chat, after, limit + 1}
	keyword := query.Peek("keyword")
	if len(keyword) > 0 {
		statement, values = searchSQL, append(values, string(keyword))
	}
	rows, err := r.sql.Query(ctx, statement, values...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	body = append(body, `{"items":[`...)
	var removed, last int64
	var number *int64
	var text []byte
	var created, updated *time.Time
	chats, count := 0, 0
	for rows.Next() {
		if err := rows.Scan(&removed, &number, &text, &created, &updated); err != nil {
			return nil, err
		}
		chats = 1
		if number == nil {
			break
		}
		if count++; count > limit {
			continue
		}
		if count > 1 {
			body = append(body, ',')
		}
		body, last = appendMessage(body, *number, text, *created, *updated), *number
	}
	rows.Close()
	if rows.Err() != nil {
		return nil, rows.Err()
	}
	if chats == 0 {
		return nil, pgx.ErrNoRows
	}
	body = appendNext(body, count > limit, last)
	if len(keyword) > 0 {
		return append(body, `,"complete":true}`...), nil
	}
	issued, err := r.issued(ctx, "chat:"+token+":"+strconv.FormatInt(chat, 10))
	if err != nil {
		return nil, err
	}
	return appendTotal(body, issued[0]-removed), nil
}

func (r *reader) chat(ctx context.Context, body []byte, token string, number int64) ([]byte, error) {
	var removed int64
	var created, updated time.Time
	row := r.sql.QueryRow(ctx, chatSQL, token, number)
	if err := row.Scan(&removed, &created, &updated); err != nil {
		return nil, err
	}
	issued, err := r.issued(ctx, "chat:"+token+":"+strconv.FormatInt(number, 10))
	if err != nil {
		return nil, err
	}
	return appendChat(body, number, issued[0]-removed, created, updated), nil
}

func (r *reader) chats(
	ctx context.Context, body []byte, token string, query *fasthttp.Args,
) ([]byte, error) {
	limit, after := pageOf(query)
	rows, err := r.sql.Query(ctx, chatsSQL, token, after, limit+1)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	type chat struct {
		number, removed  *int64
		created, updated *time.Time
	}
	var found []chat
	var chatsRemoved int64
	parents := []string{"app:" + token}
	for rows.Next() {
		var each chat
		err := rows.Scan(&chatsRemoved, &each.number, &each.removed, &each.created, &each.updated)
		if err != nil {
			return nil, err
		}
		if each.number != nil {
			found = append(found, each)
			parents = append(parents, "chat:"+token+":"+strconv.FormatInt(*each.number, 10))
		}
	}
	rows.Close()
	if rows.Err() != nil {
		return nil, rows.Err()
	}
	shown := min(len(found), limit)
	issued, err := r.issued(ctx, parents[:shown+1]...)
	if err != nil {
		return nil, err
	}
	body = append(body, `{"items":[`...)
	var last int64
	for place, each := range found[:shown] {
		if place > 0 {
			body = append(body, ',')
		}
		count := issued[place+1] - *each.removed
		body, last = appendChat(body, *each.number, count, *each.created, *each.updated), *each.number
	}
	return appendTotal(appendNext(body, len(found) > limit, last), issued[0]-chatsRemoved), nil
}

func pageOf(query *fasthttp.Args) (limit, after int) {
	if limit = query.GetUintOrZero("limit"); limit == 0 {
		limit = pageSize
	}
	return limit, query.GetUintOrZero("after")
}

// The highest number issued under each parent, read in one round trip.
func (r *reader) issued(ctx context.Context, parents ...string) ([]int64, error) {
	commands := make(rueidis.Commands, len(parents))
	for place, parent := range parents {
		key := r.keyPrefix + parent
		commands[place] = r.redis.B().Get().Key(key).Build()
	}
	issued := make([]int64, len(parents))
	for place, reply := range r.redis.DoMulti(ctx, commands...) {
		counter, err := reply.ToString() // EPOCH ISSUED …
		if err != nil {
			return nil, err
		}
		_, rest, _ := strings.Cut(counter, " ")
		number, _, _ := strings.Cut(rest, " ")
		if issued[place], err = strconv.ParseInt(number, 10, 64); err != nil {
			return nil, err
		}
	}
	return issued, nil
}

func appendMessage(body []byte, number int64, text []byte, created, updated time.Time) []byte {
	body = append(body, `{"number":`...)
	body = strconv.AppendInt(body, number, 10)
	body = append(body, `,"text":`...)
	body = appendText(body, text)
	return appendTimes(body, created, updated)
}

func appendChat(body []byte, number, count int64, created, updated time.Time) []byte {
	body = append(body, `{"number":`...)
	body = strconv.AppendInt(body, number, 10)
	body = append(body, `,"messages_count":`...)
	body = strconv.AppendInt(body, count, 10)
	return appendTimes(body, created, updated)
}

func appendTimes(body []byte, created, updated time.Time) []byte {
	const layout = "2006-01-02T15:04:05.000000Z"
	body = append(body, `,"created_at":"`...)
	body = created.UTC().AppendFormat(body, layout)
	body = append(body, `","updated_at":"`...)
	body = updated.UTC().AppendFormat(body, layout)
	return append(body, `"}`...)
}

func appendNext(body []byte, more bool, last int64) []byte {
	body = append(body, `],"next":`...)
	if !more {
		return append(body, `null`...)
	}
	return strconv.AppendInt(body, last, 10)
}

func appendTotal(body []byte, total int64) []byte {
	return append(strconv.AppendInt(append(body, `,"total":`...), total, 10), '}')
}

// A text as a JSON string.
func appendText(body, text []byte) []byte {
	body = append(body, '"')
	for len(text) > 0 {
		plain := bytes.IndexFunc(text, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' })
		if plain < 0 {
			break
		}
		body = append(body, text[:plain]...)
		if c := text[plain]; c < ' ' {
			body = append(body, fmt.Sprintf(`\u%04x`, c)...)
		} else {
			body = append(body, '\\', c)
		}
		text = text[plain+1:]
	}
	return append(append(body, text...), '"')
}
