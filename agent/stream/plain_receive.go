package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"tarn/zfs"
)

// errNoPlain: the source offered a plain connection that cannot be opened.
var errNoPlain = errors.New("no plain connection")

// plainAgain is how long TLS serves in the place of plain connections that failed.
const plainAgain = 10 * time.Minute

func (c *Client) offersPlain(h *hostClients) bool {
	if len(c.cfg.PlainNetworks) == 0 {
		return false
	}
	failed := h.noPlain.Load()
	return failed == nil || time.Since(*failed) > plainAgain
}

// openPlain connects to where the source says that the bytes are. It goes to
// trusted networks only, whatever a source says.
func (c *Client) openPlain(ctx context.Context, p *Pull, header string) error {
	var offer plainOffer
	if err := decodeStrict(strings.NewReader(header), maxHeaderBytes, &offer); err != nil {
		return fmt.Errorf("decode %s: %w", headerPlain, err)
	}
	at, err := netip.ParseAddrPort(offer.Address)
	if err != nil || len(offer.Ticket) != ticketBytes || !within(c.cfg.PlainNetworks, at.Addr().Unmap()) {
		return fmt.Errorf("source offers its stream at %q, which is not in a trusted network: %w (%w)", offer.Address, zfs.ErrInvalid, errNoPlain)
	}
	dialer := net.Dialer{Timeout: c.cfg.DialTimeout, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", offer.Address)
	if err != nil {
		return fmt.Errorf("connect to plain stream: %v: %w (%w)", err, ErrUnreachable, errNoPlain)
	}
	if _, err := conn.Write(offer.Ticket); err != nil {
		_ = conn.Close()
		return fmt.Errorf("show ticket: %v: %w (%w)", err, ErrUnreachable, errNoPlain)
	}
	p.plain = conn.(*net.TCPConn)
	context.AfterFunc(p.ctx, func() { _ = conn.Close() })
	return nil
}
