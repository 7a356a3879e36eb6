package controlplane_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"tarn/controlplane"
	"tarn/controlplane/identity"
	tarnv1 "tarn/proto/tarn/v1"
)

// stranger is a TLS configuration without a certificate.
func (h *harness) stranger(protos ...string) *tls.Config {
	conf := h.material(identity.Subject{Role: identity.RoleOperator}).ClientConfig(identity.RoleControl)
	conf.GetClientCertificate, conf.NextProtos = nil, protos
	return conf
}

func (h *harness) material(s identity.Subject) *identity.Material {
	h.t.Helper()
	s.ID = uuid.NewString()
	dir := h.t.TempDir()
	h.issue(dir, s)
	m, err := identity.LoadMaterial(dir)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

// serves wants an honest client, who comes from another address, to be answered.
func (h *harness) serves(what string) {
	h.t.Helper()
	conf := h.material(identity.Subject{Role: identity.RoleOperator}).ClientConfig(identity.RoleControl)
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	web := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: conf, DialContext: dialer.DialContext}}
	defer web.CloseIdleConnections()
	res, err := web.Post("https://"+h.nodes[0].cfg.Advertise+"/tarn.v1.OperatorService/GetStatus", "application/json", strings.NewReader("{}"))
	if err != nil {
		h.t.Fatalf("%s: an honest client: %v", what, err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		h.t.Errorf("%s: an honest client: %s", what, res.Status)
	}
}

// TestTenThousandIdleConnections (Consul CVE-2020-7219, Nomad CVE-2020-7218): whoever
// opens connections and says nothing gets few, costs little and keeps nobody out.
func TestTenThousandIdleConnections(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	addr := h.nodes[0].cfg.Advertise
	before := heap()
	// At most so many at once, for the sake of this process's own limits: the server
	// keeps far fewer.
	slots := make(chan struct{}, 600)
	ended := make(chan error, 10_000)
	for range cap(ended) {
		slots <- struct{}{}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := conn.Read(make([]byte, 1))
			ended <- errors.Join(err, conn.Close())
			<-slots
		}()
	}
	h.serves("10,000 idle connections")
	if grown := int64(heap()) - int64(before); grown > 64<<20 {
		t.Errorf("they cost %d MiB", grown>>20)
	}
	for range cap(ended) {
		if err := <-ended; err == nil {
			t.Error("a stranger was answered")
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSlowloris: handshakes, headers and bodies that come byte by byte end in time.
func TestSlowloris(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	addr := h.nodes[0].cfg.Advertise
	ends := func(what string, conn net.Conn, first string) {
		t.Helper()
		defer conn.Close()
		if _, err := io.WriteString(conn, first); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(25 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := io.Copy(io.Discard, bufio.NewReader(conn))
		if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Errorf("%s: the connection is still open", what)
		}
	}
	done := make(chan struct{})
	for what, first := range map[string]string{
		"handshake": "\x16\x03\x01\x02\x00", "header": "POST /x HTTP/1.1\r\nHost: x\r\nA: ",
		"body": "POST /tarn.v1.JoinService/Join HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
	} {
		go func() {
			defer func() { done <- struct{}{} }()
			conn, err := net.Dial("tcp", addr)
			if err == nil && what != "handshake" {
				tlsConn := tls.Client(conn, h.stranger("http/1.1"))
				err, conn = tlsConn.Handshake(), tlsConn
			}
			if err != nil {
				t.Errorf("%s: %v", what, err)
				return
			}
			ends(what, conn, first)
		}()
	}
	for range 3 {
		<-done
	}
	h.serves("slow senders")
}

// TestOversizedAndNested: what is too long, unpacks to too much or nests too deep is
// refused before it costs memory.
func TestOversizedAndNested(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	conf := h.material(identity.Subject{Role: identity.RoleClient, Project: "p", ProjectRole: identity.ProjectMember}).ClientConfig(identity.RoleControl)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: conf}}
	defer web.CloseIdleConnections()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	zeros := make([]byte, 1<<20)
	for range 128 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	before := heap()
	for what, c := range map[string]struct {
		body     io.Reader
		encoding string
	}{
		"64 MiB":           {io.LimitReader(zeroes{}, 64<<20), ""},
		"bomb of 128 MiB":  {bytes.NewReader(bomb.Bytes()), "gzip"},
		"nested arrays":    {strings.NewReader(`{"name":` + strings.Repeat("[", 1<<18)), ""},
		"nested objects":   {strings.NewReader(strings.Repeat(`{"metadata":`, 1<<15)), ""},
		"unknown encoding": {strings.NewReader("{}"), "zip"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+h.nodes[0].cfg.Advertise+"/tarn.v1.ShareService/CreateShare", c.body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if c.encoding != "" {
			req.Header.Set("Content-Encoding", c.encoding)
		}
		res, err := web.Do(req)
		if err != nil {
			continue // Cut off while it was still sending.
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode < 400 || res.StatusCode == http.StatusInternalServerError || len(text) > 4096 {
			t.Errorf("%s: %s %.200s %v", what, res.Status, text, err)
		}
	}
	if grown := int64(heap()) - int64(before); grown > 64<<20 {
		t.Errorf("they cost %d MiB", grown>>20)
	}
	h.serves("oversized requests")
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestRapidReset (CVE-2023-39325): requests that are taken back at once do not pile up.
func TestRapidReset(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	conn, err := tls.Dial("tcp", h.nodes[0].cfg.Advertise, h.stranger("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := runtime.NumGoroutine()
	if err := reset(conn, 20_000); err == nil {
		t.Log("the connection survived")
	}
	h.serves("20,000 requests taken back")
	h.await("the handlers' end", func() bool { return runtime.NumGoroutine() < before+300 })
}

// reset opens and takes back n requests; an error says that the server had enough.
func reset(conn net.Conn, n int) error {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	out := bufio.NewWriter(conn)
	f := http2.NewFramer(out, conn)
	if err := f.WriteSettings(); err != nil {
		return err
	}
	// What the server says has to be read, or it would wait for us.
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/tarn.v1.JoinService/Join"}, {"content-type", "application/json"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			return err
		}
	}
	headers := bytes.Clone(block.Bytes())
	for i := range n {
		id := uint32(2*i + 1)
		err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers, EndHeaders: true})
		if err == nil {
			err = f.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err == nil && i%100 == 0 {
			err = out.Flush()
		}
		if err != nil {
			return fmt.Errorf("after %d requests: %w", i, err)
		}
	}
	return out.Flush()
}

// TestLeasesSurviveAFlood: while strangers flood the port, an agent's lease is renewed.
func TestLeasesSurviveAFlood(t *testing.T) {
	h := newHarness(t, 1, func(cfg *controlplane.Config) { cfg.Connections = identity.Limits{Patience: 10 * time.Second} })
	h.leader()
	op := h.operator()
	if _, err := op.Operator.GetStatus(t.Context(), &tarnv1.GetStatusRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { stopped <- struct{}{} }()
			for ctx.Err() == nil {
				conn, err := net.Dial("tcp", h.nodes[0].cfg.Advertise)
				if err == nil {
					_, _ = conn.Write([]byte("x"))
					_ = conn.Close()
				}
			}
		}()
	}
	for range 50 {
		if _, err := op.Operator.GetStatus(t.Context(), &tarnv1.GetStatusRequest{}); err != nil {
			t.Error(err)
		}
	}
	cancel()
	for range 4 {
		<-stopped
	}
}

// TestAdminPortIsBounded: whoever opens connections to the port of metrics and says
// nothing gets a share of them, and keeps no other machine from scraping.
func TestAdminPortIsBounded(t *testing.T) {
	h := newHarness(t, 1)
	h.leader()
	addr := h.nodes[0].cfg.AdminSocket.Addr().String()
	limit := identity.AdminLimits().StrangersPerHost
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	const opened = 100
	ended := make(chan struct{}, opened)
	for range opened {
		conn, err := dialer.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			_, _ = conn.Read(make([]byte, 1)) // the end is what is waited for
			ended <- struct{}{}
		}()
	}
	for range opened - limit {
		select {
		case <-ended:
		case <-time.After(4 * time.Second): // before the port's patience with a header is over
			t.Fatalf("more than %d connections of one machine are open", limit)
		}
	}
	res, err := http.Get("http://" + addr + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("another machine: %s", res.Status)
	}
}
