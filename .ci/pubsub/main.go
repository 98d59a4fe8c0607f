// A stand-in for Google Cloud Pub/Sub on one port: Google's pstest, which speaks gRPC, with the part of the REST API before
// it that clients make topics and subscriptions by.
//
//	pubsub-stand-in 127.0.0.1:8085
//
// POST /stand-in/expire?prefix=projects/p/subscriptions/ ends the leases of everything that is outstanding there; with
// &bury=1 the streams of all who read there as well, as when their processes are dead.
//
// POST /stand-in/end?prefix=projects/p/subscriptions/&code=7 ends the streams of all who read there with that code of gRPC; they keep
// their leases. GET /stand-in/streams?prefix=projects/p/subscriptions/ tells how many there are.
//
// POST /stand-in/refuse?method=Publish&code=8&times=3 answers the next three calls with that code of gRPC, as the service does
// when a quota is used up. It tells how many were refused by the order before. With &prefix=projects/p/subscriptions/ only calls about
// such subscriptions (GetSubscription, StreamingPull).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: pubsub-stand-in host:port")
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	refused := map[string]*refusal{}
	var options []pstest.ServerReactorOption
	for _, method := range []string{"Publish", "Acknowledge", "ModifyAckDeadline", "CreateTopic", "CreateSubscription", "GetSubscription", "StreamingPull"} {
		refused[method] = &refusal{}
		options = append(options, pstest.ServerReactorOption{FuncName: method, Reactor: refused[method]})
	}
	server := pstest.NewServerWithAddress("127.0.0.1:0", options...)
	rest := &onlyREST{connections: make(chan net.Conn), address: listener.Addr()}
	go func() { log.Fatal(http.Serve(rest, &api{server: server, refused: refused})) }()
	fmt.Println("LISTENING", listener.Addr())
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go sort(connection, server.Addr, rest)
	}
}

// preface is what a client of HTTP/2 begins with (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0"

// sort sends a connection to pstest where it is one of gRPC, else to the REST API.
func sort(connection net.Conn, grpc string, rest *onlyREST) {
	reader := bufio.NewReader(connection)
	first, err := reader.Peek(3)
	if err != nil {
		connection.Close()
		return
	}
	peeked := &peekedConn{Conn: connection, reader: reader}
	if string(first) != preface[:3] {
		rest.connections <- peeked
		return
	}
	defer connection.Close()
	behind, err := net.Dial("tcp", grpc)
	if err != nil {
		log.Print(err)
		return
	}
	defer behind.Close()
	go func() {
		io.Copy(behind, reader)
		behind.Close()
	}()
	io.Copy(connection, behind)
}

// peekedConn is a connection of which the beginning was read already.
type peekedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *peekedConn) Read(into []byte) (int, error) { return c.reader.Read(into) }

// onlyREST is a listener for the connections that are not of gRPC.
type onlyREST struct {
	connections chan net.Conn
	address     net.Addr
}

func (l *onlyREST) Accept() (net.Conn, error) { return <-l.connections, nil }
func (l *onlyREST) Close() error              { return nil }
func (l *onlyREST) Addr() net.Addr            { return l.address }

// refusal is what calls of a method get instead of an answer.
type refusal struct {
	mu         sync.Mutex
	code       codes.Code
	prefix     string
	left, done int
}

func (r *refusal) React(request any) (bool, any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == 0 {
		return false, nil, nil
	}
	if about, ok := request.(interface{ GetSubscription() string }); ok && !strings.HasPrefix(about.GetSubscription(), r.prefix) {
		return false, nil, nil
	}
	r.left--
	r.done++
	return true, nil, status.Error(r.code, "refused, as a test has asked")
}

// order replaces what was asked before, and tells how often that was done.
func (r *refusal) order(code codes.Code, prefix string, times int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := r.done
	r.code, r.prefix, r.left, r.done = code, prefix, times, 0
	return done
}

// api answers by the methods of the gRPC server.
type api struct {
	server  *pstest.Server
	refused map[string]*refusal
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" {
		fmt.Fprintln(w, "Ok")
		return
	}
	if r.Method == http.MethodPost && r.URL.Path == "/stand-in/expire" {
		a.server.ExpireLeases(r.URL.Query().Get("prefix"), r.URL.Query().Get("bury") == "1")
		fmt.Fprintln(w, "Ok")
		return
	}
	if r.Method == http.MethodPost && r.URL.Path == "/stand-in/end" {
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		a.server.EndStreams(r.URL.Query().Get("prefix"), codes.Code(code))
		fmt.Fprintln(w, "Ok")
		return
	}
	if r.URL.Path == "/stand-in/streams" {
		fmt.Fprint(w, a.server.Streams(r.URL.Query().Get("prefix")))
		return
	}
	if r.Method == http.MethodPost && r.URL.Path == "/stand-in/refuse" {
		query := r.URL.Query()
		code, _ := strconv.Atoi(query.Get("code"))
		times, _ := strconv.Atoi(query.Get("times"))
		if method := a.refused[query.Get("method")]; method != nil {
			fmt.Fprint(w, method.order(codes.Code(code), query.Get("prefix"), times))
			return
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<20))
	if err == nil {
		var answer proto.Message
		if answer, err = a.answer(r, body); err == nil {
			var text []byte
			if text, err = protojson.Marshal(answer); err == nil {
				w.Header().Set("Content-Type", "application/json")
				w.Write(text)
				return
			}
		}
	}
	refuse(w, err)
}

func read(body []byte, into proto.Message) error {
	if len(body) == 0 {
		return nil
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, into); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}

// answer serves /v1/projects/{project}/{topics,subscriptions}[/{id}[:verb]].
func (a *api) answer(r *http.Request, body []byte) (proto.Message, error) {
	ctx := context.Background()
	server := &a.server.GServer
	name, verb, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), ":")
	parts := strings.Split(name, "/")
	size, _ := strconv.Atoi(r.URL.Query().Get("pageSize"))
	token := r.URL.Query().Get("pageToken")
	kind := ""
	if len(parts) > 2 {
		kind = parts[2]
	}
	switch {
	case len(parts) == 3 && r.Method == http.MethodGet && kind == "topics":
		return server.ListTopics(ctx, &pubsubpb.ListTopicsRequest{
			Project: strings.Join(parts[:2], "/"), PageSize: int32(size), PageToken: token})
	case len(parts) == 3 && r.Method == http.MethodGet && kind == "subscriptions":
		return server.ListSubscriptions(ctx, &pubsubpb.ListSubscriptionsRequest{
			Project: strings.Join(parts[:2], "/"), PageSize: int32(size), PageToken: token})
	case len(parts) == 5 && r.Method == http.MethodGet && kind == "topics" && parts[4] == "subscriptions":
		return server.ListTopicSubscriptions(ctx, &pubsubpb.ListTopicSubscriptionsRequest{
			Topic: strings.Join(parts[:4], "/"), PageSize: int32(size), PageToken: token})
	case len(parts) != 4:
	case kind == "topics" && verb == "" && r.Method == http.MethodPut:
		topic := &pubsubpb.Topic{}
		if err := read(body, topic); err != nil {
			return nil, err
		}
		topic.Name = name
		return server.CreateTopic(ctx, topic)
	case kind == "topics" && verb == "" && r.Method == http.MethodGet:
		return server.GetTopic(ctx, &pubsubpb.GetTopicRequest{Topic: name})
	case kind == "topics" && verb == "" && r.Method == http.MethodDelete:
		return server.DeleteTopic(ctx, &pubsubpb.DeleteTopicRequest{Topic: name})
	case kind == "topics" && verb == "publish" && r.Method == http.MethodPost:
		request := &pubsubpb.PublishRequest{}
		if err := read(body, request); err != nil {
			return nil, err
		}
		request.Topic = name
		return server.Publish(ctx, request)
	case kind == "subscriptions" && verb == "" && r.Method == http.MethodPut:
		subscription := &pubsubpb.Subscription{}
		if err := read(body, subscription); err != nil {
			return nil, err
		}
		subscription.Name = name
		return server.CreateSubscription(ctx, subscription)
	case kind == "subscriptions" && verb == "" && r.Method == http.MethodGet:
		return server.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: name})
	case kind == "subscriptions" && verb == "" && r.Method == http.MethodDelete:
		return server.DeleteSubscription(ctx, &pubsubpb.DeleteSubscriptionRequest{Subscription: name})
	}
	return nil, status.Errorf(codes.Unimplemented, "the stand-in has no %s %s", r.Method, r.URL.Path)
}

// How the codes of gRPC are told over HTTP (google/rpc/code.proto).
var overHTTP = map[codes.Code]struct {
	status int
	name   string
}{
	codes.InvalidArgument:    {400, "INVALID_ARGUMENT"},
	codes.FailedPrecondition: {400, "FAILED_PRECONDITION"},
	codes.PermissionDenied:   {403, "PERMISSION_DENIED"},
	codes.NotFound:           {404, "NOT_FOUND"},
	codes.AlreadyExists:      {409, "ALREADY_EXISTS"},
	codes.ResourceExhausted:  {429, "RESOURCE_EXHAUSTED"},
	codes.Unimplemented:      {501, "UNIMPLEMENTED"},
	codes.Unavailable:        {503, "UNAVAILABLE"},
}

func refuse(w http.ResponseWriter, err error) {
	told, known := overHTTP[status.Code(err)]
	if !known {
		told.status, told.name = 500, "UNKNOWN"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(told.status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"code": told.status, "message": status.Convert(err).Message(), "status": told.name}})
}
