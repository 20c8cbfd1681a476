// The baseline of the benchmark `http`: a gateway that makes the usual four Redis calls for each message:
// EXISTS application, EXISTS chat, INCR the chat's counter, RPUSH the message onto a queue.
//
// It is as fast as that method allows: fasthttp, only the necessary checks, and no log. The two checks are sent
// together. One connection pipelines the calls of all requests, so that they share system calls, and fsyncs
// under `appendfsync always`: more connections, and no pause before a flush, were slower under both durabilities.
//
//	gateway ADDRESS REDIS
package main

import (
	"bytes"
	"context"
	"log"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/redis/rueidis"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fastjson"
)

const (
	oneConnection  = -1
	flushDelay     = 20 * time.Microsecond
	garbagePercent = 400 // collects a quarter as often as by default; the memory is a few MB
)

func main() {
	debug.SetGCPercent(garbagePercent)
	options := rueidis.MustParseURL(os.Args[2])
	options.DisableCache = true
	options.PipelineMultiplex = oneConnection
	options.MaxFlushDelay = flushDelay
	client, err := rueidis.NewClient(options)
	if err != nil {
		log.Fatal(err)
	}
	server := &fasthttp.Server{
		Handler:               (&gateway{client}).create,
		NoDefaultDate:         true,
		NoDefaultServerHeader: true,
	}
	log.Fatal(server.ListenAndServe(os.Args[1]))
}

type gateway struct{ redis rueidis.Client }

var (
	parsers   fastjson.ParserPool
	separator = []byte("/")
)

// POST /api/v1/applications/TOKEN/chats/CHAT/messages
func (g *gateway) create(request *fasthttp.RequestCtx) {
	parts := bytes.Split(request.Path(), separator)
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
	text := body.Get("message", "text")
	if text == nil || len(text.GetStringBytes()) == 0 {
		request.SetStatusCode(422)
		return
	}
	ctx := context.Background()
	token, chat := string(parts[4]), string(parts[6])
	parents := g.redis.DoMulti(ctx,
		g.redis.B().Exists().Key("gateway:app:"+token).Build(),
		g.redis.B().Exists().Key("gateway:chat:"+token+":"+chat).Build(),
	)
	for _, parent := range parents {
		if found, err := parent.AsInt64(); err != nil || found == 0 {
			request.SetStatusCode(404)
			return
		}
	}
	counter := g.redis.B().Incr().Key("gateway:count:" + token + ":" + chat).Build()
	number, err := g.redis.Do(ctx, counter).AsInt64()
	if err != nil {
		request.SetStatusCode(503)
		return
	}
	event := append(make([]byte, 0, 256), `{"token":"`...)
	event = append(event, token...)
	event = append(event, `","chat":`...)
	event = append(event, chat...)
	event = append(event, `,"number":`...)
	event = strconv.AppendInt(event, number, 10)
	event = append(event, `,"text":`...)
	event = text.MarshalTo(event)
	event = append(event, '}')
	push := g.redis.B().Rpush().Key("gateway:queue").Element(rueidis.BinaryString(event)).Build()
	if err = g.redis.Do(ctx, push).Error(); err != nil {
		request.SetStatusCode(503)
		return
	}
	request.SetStatusCode(202)
	request.SetContentType("application/json")
	request.SetBodyString(`{"number":` + strconv.FormatInt(number, 10) + `}`)
}
