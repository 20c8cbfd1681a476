// The baseline of the benchmark `http`: a gateway that makes the usual four Redis calls for each message:
// EXISTS application, EXISTS chat, INCR the chat's counter, RPUSH the message onto a queue.
//
// It is as fast as that method allows: fasthttp, a client that pipelines the calls of all connections (so that
// they share fsyncs under `appendfsync always`), only the necessary checks, and no log.
//
//	gateway ADDRESS REDIS
package main

import (
	"context"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fastjson"
)

func main() {
	options := rueidis.MustParseURL(os.Args[2])
	options.DisableCache = true
	client, err := rueidis.NewClient(options)
	if err != nil {
		log.Fatal(err)
	}
	server := &fasthttp.Server{Handler: (&gateway{client}).create}
	log.Fatal(server.ListenAndServe(os.Args[1]))
}

type gateway struct{ redis rueidis.Client }

var parsers fastjson.ParserPool

// POST /api/v1/applications/TOKEN/chats/CHAT/messages
func (g *gateway) create(request *fasthttp.RequestCtx) {
	parts := strings.Split(string(request.Path()), "/")
	if len(parts) != 8 {
		request.SetStatusCode(404)
		return
	}
	parser := parsers.Get()
	defer parsers.Put(parser)
	body, err := parser.ParseBytes(request.PostBody())
	if err != nil {
		request.SetStatusCode(400)
		return
	}
	text := body.GetStringBytes("message", "text")
	if len(text) == 0 {
		request.SetStatusCode(422)
		return
	}
	ctx := context.Background()
	application, chat := "gateway:app:"+parts[4], "gateway:chat:"+parts[4]+":"+parts[6]
	for _, key := range []string{application, chat} {
		found, err := g.redis.Do(ctx, g.redis.B().Exists().Key(key).Build()).AsInt64()
		if err != nil || found == 0 {
			request.SetStatusCode(404)
			return
		}
	}
	number, err := g.redis.Do(ctx, g.redis.B().Incr().Key("gateway:count:"+chat).Build()).AsInt64()
	if err != nil {
		request.SetStatusCode(503)
		return
	}
	given := strconv.FormatInt(number, 10)
	event := `{"token":"` + parts[4] + `","chat":` + parts[6] + `,"number":` + given +
		`,"text":` + strconv.Quote(string(text)) + `}`
	err = g.redis.Do(ctx, g.redis.B().Rpush().Key("gateway:queue").Element(event).Build()).Error()
	if err != nil {
		request.SetStatusCode(503)
		return
	}
	request.SetStatusCode(202)
	request.SetContentType("application/json")
	request.SetBodyString(`{"number":` + given + `}`)
}
