// Session handling of a current API server, in front of an older one.
//
// Since 1.30 an API server accepts remote commands in version 5 of the WebSocket protocol and uses
// SPDY to the node. The handler is Kubernetes' own, unchanged. This program adds the address of the
// older server and the identity of the client.
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
		// The parent process holds the other end, which is closed however the parent exits.
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	log.Fatal(http.Serve(front.listener, front.handler()))
}

// front is the handler of clients' requests.
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
	// An HTTP/2 connection cannot be upgraded.
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
		// Watches are streamed.
		FlushInterval: -1,
	}
	return proxy.NewTranslatingHandler(
		through,
		http.HandlerFunc(f.translate),
		wsstream.IsWebSocketRequestWithStreamCloseProtocol,
	)
}

// translate serves a session like an API server: the session is refused with a response if it is
// not permitted or has no target, and accepted before the node is contacted.
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
	// The handler authenticates to its upstream with a certificate or not at all. Here the upstream is
	// the other half of this program, which has all credentials.
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

// refusal returns the server's error for a session before it contacts the node, or nil.
//
// It checks the same request without an upgrade, which fails last for that reason.
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
