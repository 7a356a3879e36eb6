package gossip

import (
	"fmt"
	"log"
	"net"
	"strings"
	"sync"

	"github.com/hashicorp/memberlist"
)

// bindAttempts for a port that the kernel picks: it is free for TCP then, and may be taken for UDP.
const bindAttempts = 10

// limitedTransport is memberlist's own, whose incoming connections have to be admitted.
// memberlist gives each a deadline, and starts a goroutine for each, of which there would
// be as many as anybody likes.
type limitedTransport struct {
	*memberlist.NetTransport
	admit   func(net.Conn) (net.Conn, bool)
	streams chan net.Conn
	ended   chan struct{}
	end     sync.Once
}

// listen opens the ports of mc and notes which they are.
func listen(mc *memberlist.Config, admit func(net.Conn) (net.Conn, bool), logger *log.Logger) (*limitedTransport, error) {
	conf := &memberlist.NetTransportConfig{BindAddrs: []string{mc.BindAddr}, BindPort: mc.BindPort, Logger: logger}
	transport, err := memberlist.NewNetTransport(conf)
	for i := 1; err != nil && i < bindAttempts && mc.BindPort == 0 && strings.Contains(err.Error(), "address already in use"); i++ {
		transport, err = memberlist.NewNetTransport(conf)
	}
	if err != nil {
		return nil, fmt.Errorf("open gossip port: %w", err)
	}
	if mc.BindPort == 0 {
		mc.BindPort = transport.GetAutoBindPort()
		mc.AdvertisePort = mc.BindPort
	}
	t := &limitedTransport{NetTransport: transport, admit: admit, streams: make(chan net.Conn), ended: make(chan struct{})}
	go t.pump()
	return t, nil
}

// pump hands on what is admitted and closes the rest unread, until Shutdown.
func (t *limitedTransport) pump() {
	for {
		select {
		case <-t.ended:
			return
		case conn := <-t.NetTransport.StreamCh():
			admitted, ok := t.admit(conn)
			if !ok {
				_ = conn.Close() // the peer sees the end; there is nobody else to tell
				continue
			}
			select {
			case t.streams <- admitted:
			case <-t.ended:
				_ = admitted.Close() // nobody will read it
			}
		}
	}
}

// StreamCh implements memberlist.Transport.
func (t *limitedTransport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements memberlist.Transport. What has been accepted by then is still
// handed on: memberlist stops reading only afterwards.
func (t *limitedTransport) Shutdown() error {
	err := t.NetTransport.Shutdown()
	t.end.Do(func() { close(t.ended) })
	return err
}
