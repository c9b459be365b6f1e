// The way in which an API server of today takes sessions, in front of one of yesterday.
//
// From 1.30 on an API server takes remote commands in version 5 of the WebSocket protocol and
// speaks SPDY with the node. The handler that does so is Kubernetes' own and is used here as it
// is. What is ours is only what stands around it: where the older server is, and who asks.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"

	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the server, and whose rights every caller has")
	flag.Parse()
	// The handler logs an error at the end of every session that it closes itself.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	front, err := newFront(*kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(front.listener.Addr())
	go func() {
		// Whoever has started this holds the other end: it closes whatever way they end.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(front.listener, front.handler()))
}

// front is what callers see.
type front struct {
	listener net.Listener
	server   *url.URL
	upstream http.RoundTripper
}

func newFront(kubeconfig string) (*front, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	// A connection that speaks HTTP/2 cannot be upgraded.
	config.NextProtos = []string{"http/1.1"}
	upstream, err := rest.TransportFor(config)
	if err != nil {
		return nil, err
	}
	server, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return &front{listener, server, upstream}, nil
}

func (f *front) handler() http.Handler {
	through := &httputil.ReverseProxy{
		Rewrite:   func(request *httputil.ProxyRequest) { request.SetURL(f.server) },
		Transport: f.upstream,
		// What is watched comes piece by piece.
		FlushInterval: -1,
	}
	return proxy.NewTranslatingHandler(
		through,
		http.HandlerFunc(f.translate),
		wsstream.IsWebSocketRequestWithStreamCloseProtocol,
	)
}

// translate serves a session as an API server does: it is refused by an answer where it may not
// be or has nowhere to go, and taken before the node is asked.
func (f *front) translate(answer http.ResponseWriter, request *http.Request) {
	refused, err := f.refusal(request)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadGateway)
		return
	}
	if refused != nil {
		answer.Header().Set("Content-Type", refused.Header.Get("Content-Type"))
		answer.WriteHeader(refused.StatusCode)
		_, _ = io.Copy(answer, refused.Body)
		return
	}
	// The handler proves itself to its upstream with a certificate or not at all. Here it comes
	// back to this program, whose other half knows every proof.
	location := *request.URL
	location.Scheme = "http"
	location.Host = f.listener.Addr().String()
	asks := func(stream string) bool {
		is, _ := strconv.ParseBool(request.URL.Query().Get(stream))
		return is
	}
	streams := proxy.Options{
		Stdin:  asks("stdin"),
		Stdout: asks("stdout"),
		Stderr: asks("stderr"),
		Tty:    asks("tty"),
	}
	proxy.NewStreamTranslatorHandler(&location, http.DefaultTransport, 0, streams).
		ServeHTTP(answer, request)
}

// refusal gives what the server has against a session before it turns to the node, or nil.
//
// It checks the same for a request that does not want to be upgraded, whose last fault is that.
func (f *front) refusal(request *http.Request) (*http.Response, error) {
	url := *f.server
	url.Path, url.RawQuery = request.URL.Path, request.URL.RawQuery
	plain, err := http.NewRequestWithContext(request.Context(), request.Method, url.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := f.upstream.RoundTrip(plain)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusBadRequest &&
		bytes.Contains(body, []byte("Upgrade request required")) {
		return nil, nil
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}
