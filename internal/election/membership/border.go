package membership

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// A border decides which streams of gossip are taken, how many, and how much
// they may bring before anybody knows whether their sender has the key.
//
// memberlist reads a whole message, of up to 20 MiB, before it can decrypt it.
// Without a border a station without a key makes a speaker keep as much as it
// likes. Packets need none: each is decrypted when it comes, and gone.
type border struct {
	mu sync.Mutex
	// peers are where Nodes should be, members where speakers with our key were
	// heard. Streams come from nowhere else.
	peers, members map[netip.Addr]bool
	total          load
	by             map[netip.Addr]load

	dropped *prometheus.CounterVec
}

// A load is what streams cost at the moment.
type load struct{ streams, bytes int }

const (
	// streamsEach bounds the open streams that one address began. A speaker
	// has two exchanges, a message and memberlist's own comparison under way.
	streamsEach = 8
	// streamsInAll bounds the open streams that others began; it is as many as
	// memberlist answers at a time.
	streamsInAll = 128
	// bytesBase and bytesPerPeer make what all streams together may have brought
	// in; one address may have brought half of it. All that a cluster of three
	// with 10,000 addresses knows is 0.2 MB, of a thousand nodes 0.4 MB.
	bytesBase    = 2 << 20
	bytesPerPeer = 4 << 10
)

// Errors of a stream that does not pass.
var (
	errNoNode      = errors.New("not from the address of a Node")
	errTooMany     = errors.New("too many streams")
	errTooMuchData = errors.New("too much data before it could be decrypted")
)

func newBorder(dropped *prometheus.CounterVec) *border {
	return &border{by: map[netip.Addr]load{}, dropped: dropped}
}

// setPeers replaces the addresses at which Nodes should be.
func (b *border) setPeers(peers []netip.Addr) {
	set := setOf(peers)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peers = set
}

// setMembers replaces the addresses of the speakers that are heard.
func (b *border) setMembers(members []netip.Addr) {
	set := setOf(members)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.members = set
}

func setOf(as []netip.Addr) map[netip.Addr]bool {
	set := make(map[netip.Addr]bool, len(as))
	for _, a := range as {
		set[a] = true
	}
	return set
}

// enter asks to take a stream that began at the address. If it may not, the
// error says why; else leave ends it.
func (b *border) enter(from netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.by[from]
	switch {
	case !b.peers[from] && !b.members[from]:
		b.dropped.WithLabelValues(dropForeign).Inc()
		return errNoNode
	case l.streams >= streamsEach, b.total.streams >= streamsInAll:
		b.dropped.WithLabelValues(dropOverflow).Inc()
		return errTooMany
	}
	b.add(from, load{streams: 1})
	return nil
}

// bring asks to keep n more bytes of a stream with the address.
func (b *border) bring(from netip.Addr, n int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	limit := bytesBase + bytesPerPeer*len(b.peers)
	if b.by[from].bytes+n > limit/2 || b.total.bytes+n > limit {
		b.dropped.WithLabelValues(dropOverflow).Inc()
		return errTooMuchData
	}
	b.add(from, load{bytes: n})
	return nil
}

// leave gives back what a stream with the address had.
func (b *border) leave(from netip.Addr, had load) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(from, load{-had.streams, -had.bytes})
}

// add changes what is on account; the caller holds mu.
func (b *border) add(from netip.Addr, d load) {
	b.total = load{b.total.streams + d.streams, b.total.bytes + d.bytes}
	if l := (load{b.by[from].streams + d.streams, b.by[from].bytes + d.bytes}); l != (load{}) {
		b.by[from] = l
	} else {
		delete(b.by, from)
	}
}

// remote returns the address at the other end of a stream.
func remote(c net.Conn) netip.Addr {
	a, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	return a.Addr().Unmap().WithZone("")
}
