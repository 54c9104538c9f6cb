package gobgp

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	gobgppacket "github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// A router is the other end of a session, played by a test.
type router struct {
	t    *testing.T
	l    *net.TCPListener
	peer lb.BGPPeer
}

// newRouter listens on loopback, and returns the peer for our side.
func newRouter(t *testing.T) *router {
	t.Helper()
	// Small from the first SYN on: a window that shrinks on an open connection makes the
	// kernel drop acknowledgments, too, and what the router says is then late by seconds.
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if gone := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		}); gone != nil {
			return gone
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &router{t: t, l: l.(*net.TCPListener), peer: lb.BGPPeer{
		Name: strings.NewReplacer("/", "-", "_", "-").Replace(strings.ToLower(t.Name())), MyASN: 65000, PeerASN: 65001,
		Address: netip.MustParseAddr("127.0.0.1"), Port: l.Addr().(*net.TCPAddr).AddrPort().Port(),
		HoldTime: 9 * time.Second, ConnectTime: time.Second, Families: []lb.Family{lb.IPv4, lb.IPv6},
	}}
}

// A call is one connection that the speaker made to a router.
type call struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (r *router) accept() *call {
	r.t.Helper()
	_ = r.l.SetDeadline(time.Now().Add(10 * time.Second))
	conn, err := r.l.AcceptTCP()
	if err != nil {
		r.t.Fatalf("the speaker does not call: %v", err)
	}
	c := &call{t: r.t, Conn: conn, r: bufio.NewReader(conn)}
	r.t.Cleanup(func() { c.Close() })
	return c
}

var polite = wire.Open{AS: 65001, HoldTime: 9, ID: netip.MustParseAddr("192.0.2.1"), Capabilities: wire.Capabilities{
	Families: []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast}, FourOctetAS: true, RouteRefresh: true,
}}

// establish accepts a call and brings the session up.
func (r *router) establish() *call {
	r.t.Helper()
	c := r.accept()
	c.send(wire.AppendKeepalive(wire.AppendOpen(nil, polite)))
	if typ, _, err := c.read(); typ != wire.TypeOpen || err != nil {
		r.t.Fatalf("%v, %v instead of OPEN", typ, err)
	}
	if typ, _, err := c.read(); typ != wire.TypeKeepalive || err != nil {
		r.t.Fatalf("%v, %v instead of KEEPALIVE", typ, err)
	}
	return c
}

func (c *call) send(b []byte) {
	c.t.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(b); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

func (c *call) read() (wire.Type, []byte, error) {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var h [wire.HeaderLen]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return 0, nil, err
	}
	typ, n, err := wire.ParseHeader(h)
	if err != nil {
		return 0, nil, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(c.r, body)
	return typ, body, err
}

// notified reads until the speaker says why it goes.
func (c *call) notified() wire.Notification {
	c.t.Helper()
	for {
		typ, body, err := c.read()
		if err != nil {
			c.t.Fatalf("the speaker went without a word: %v", err)
		}
		if typ == wire.TypeNotification {
			n, err := wire.ParseNotification(body)
			if err != nil {
				c.t.Fatal(err)
			}
			return n
		}
	}
}

// unanswered reads until the speaker goes, which says nothing.
func (c *call) unanswered() {
	c.t.Helper()
	for {
		switch typ, body, err := c.read(); {
		case errors.Is(err, io.EOF):
			return
		case err != nil, typ == wire.TypeNotification:
			c.t.Fatalf("%v %x, %v", typ, body, err)
		}
	}
}

// drain reads until the connection ends, so that the speaker can write.
func (c *call) drain() {
	go func() {
		_ = c.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, c.r)
	}()
}

// talk sends a KEEPALIVE now and then until the test ends.
func (c *call) talk() {
	_ = c.SetWriteDeadline(time.Time{})
	go func() {
		for c.t.Context().Err() == nil {
			if _, err := c.Write(wire.AppendKeepalive(nil)); err != nil {
				return
			}
			time.Sleep(500 * time.Millisecond)
		}
	}()
}

func message(t *testing.T, typ wire.Type, body string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		t.Fatal(err)
	}
	n := wire.HeaderLen + len(b)
	return append(append([]byte(strings.Repeat("\xff", 16)), byte(n>>8), byte(n), byte(typ)), b...)
}

// evilUpdates are bodies of UPDATE that break something in some BGP speaker.
var evilUpdates = []struct{ name, body string }{
	{"MP_REACH_NLRI of 3 octets", "0000 0006 80 0e 03 000101"},
	{"MP_REACH_NLRI of 4 octets", "0000 0007 80 0e 04 00010104"},
	{"MP_REACH_NLRI with a long next hop", "0000 000a 80 0e 07 000201ff200100"},
	{"MP_UNREACH_NLRI of 1 octet", "0000 0004 80 0f 01 00"},
	{"a prefix SID that is cut", "0000 0006 c0 28 03 010007"},
	{"an empty prefix SID", "0000 0003 c0 28 00"},
	{"a prefix SID with a TLV that is cut", "0000 000a c0 28 07 05 0020 00 01 0010"},
	{"withdrawn routes beyond the end", "ffff 0000"},
	{"attributes beyond the end", "0000 ffff 40"},
	{"attribute beyond the end", "0000 0003 40 01 ff"},
	{"no NEXT_HOP", "0000 0004 40 01 01 00 20 c0000201"},
	{"NEXT_HOP of 3 octets", "0000 000a 40 01 01 00 40 03 03 010203 20 c0000201"},
	{"AS_PATH segment beyond the end", "0000 000a 40 01 01 00 40 02 03 02ff00 20 c0000201"},
	{"AS_PATH of an unknown segment", "0000 000a 40 01 01 00 40 02 03 090100 20 c0000201"},
	{"AGGREGATOR of 1 octet", "0000 0004 c0 07 01 00"},
	{"CLUSTER_LIST of 3 octets", "0000 0006 80 0a 03 010203"},
	{"communities of 3 octets", "0000 0006 c0 08 03 010203"},
	{"large communities of 5 octets", "0000 0008 c0 20 05 0102030405"},
	{"extended communities of 7 octets", "0000 000a c0 10 07 01020304050607"},
	{"tunnel encapsulation that is cut", "0000 0006 c0 17 03 000fff"},
	{"AIGP that is cut", "0000 0005 80 1a 02 0100"},
	{"33 bits of IPv4", "0000 0000 21 c000020180"},
	{"a withdrawn prefix that is cut", "0003 20 c000 0000"},
	{"EVPN that is cut", "0000 000d 80 0e 0a 0019 46 04 01020304 00 02"},
	{"FlowSpec that is cut", "0000 0009 80 0e 06 0001 85 00 00 f0"},
	{"VPNv4 that is cut", "0000 0009 80 0e 06 0001 80 00 00 70"},
	{"LS that is cut", "0000 000b 80 0e 08 4004 47 00 00 0001ff"},
	{"SR policy that is cut", "0000 0009 80 0e 06 0001 49 00 00 60"},
	{"an attribute of every flag", "0000 0004 ff ff 0000"},
	{"the same attribute twice", "0000 0008 40 01 01 00 40 01 01 00"},
}

// TestGobgpNeedsItsGuard shows that what the guard swallows is not harmless. If
// it fails, gobgp has been mended, and the guard's reasons want another look.
func TestGobgpNeedsItsGuard(t *testing.T) {
	panics := 0
	for _, evil := range evilUpdates {
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Logf("%s: %v", evil.name, p)
					panics++
				}
			}()
			_, _ = gobgppacket.ParseBGPMessage(message(t, wire.TypeUpdate, evil.body))
		}()
	}
	if panics == 0 {
		t.Error("gobgp's parser survives all of it")
	}
}

func TestEvilUpdatesAreSwallowed(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r := newRouter(t)
	s.say(r.peer, route("198.51.100.1/32"))
	c := r.establish()
	c.drain()
	for range 3 {
		for _, evil := range evilUpdates {
			c.send(message(t, wire.TypeUpdate, evil.body))
		}
	}
	// A prefix of a body of random octets is as good.
	for i := range 200 {
		c.send(message(t, wire.TypeUpdate, fmt.Sprintf("0000 00%02x %s", i%64, strings.Repeat(fmt.Sprintf("%02x", i), 64))))
	}
	eventually(t, 10*time.Second, func() (bool, any) {
		n := s.view(r.peer.Name).Counters.UpdatesIn
		return n == uint64(3*len(evilUpdates)+200), n
	})
	v := s.established(r.peer.Name)
	if v.Counters.MalformedIn == 0 || v.Counters.Established != 1 {
		t.Errorf("%s %+v", show(v), v.Counters)
	}
}

func TestEvilOpensAreAnsweredAndTriedAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		message       func(*testing.T) []byte
		code, subcode uint8
		text          string
	}{
		{"version 3", func(t *testing.T) []byte { return message(t, wire.TypeOpen, "03 fde9 00b4 c0000202 00") }, 2, 1, "the router speaks version 3 of BGP, not 4"},
		{"hold time 1", func(t *testing.T) []byte { return message(t, wire.TypeOpen, "04 fde9 0001 c0000202 00") }, 2, 6, "the router offers a hold time of 1 s; there is none between 0 and 3"},
		{"identifier 0", func(t *testing.T) []byte { return message(t, wire.TypeOpen, "04 fde9 00b4 00000000 00") }, 2, 3, "the router has the BGP identifier 0.0.0.0"},
		{"capability that is cut", func(t *testing.T) []byte { return message(t, wire.TypeOpen, "04 fde9 00b4 c0000202 04 02 02 41 04") }, 2, 0, "a capability is cut short"},
		{"capability of the wrong length", func(t *testing.T) []byte {
			return message(t, wire.TypeOpen, "04 fde9 00b4 c0000202 06 02 04 4102 fde9")
		}, 2, 0, "malformed capability 65"},
		{"parameters beyond the end", func(t *testing.T) []byte { return message(t, wire.TypeOpen, "04 fde9 00b4 c0000202 ff") }, 2, 0, "0 octets of optional parameters, 255 said"},
		{"bad AS", func(t *testing.T) []byte { return message(t, wire.TypeOpen, "04 fdea 00b4 c0000202 00") }, 2, 2, "bad peer AS 65002, expected 65001"},
		{"not OPEN", func(*testing.T) []byte { return wire.AppendKeepalive(nil) }, 5, 1, "the router sends KEEPALIVE where it has no place"},
		{"not BGP", func(*testing.T) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }, 1, 1, "the marker is not all ones"},
		{"a message of no type", func(t *testing.T) []byte { return message(t, 9, "") }, 1, 3, "unknown message type 9"},
		{"an update in confirmation", func(t *testing.T) []byte {
			return append(wire.AppendOpen(nil, polite), message(t, wire.TypeUpdate, "0000 0000")...)
		}, 5, 2, "the router sends UPDATE where it has no place"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := speak(t)
			r := newRouter(t)
			s.say(r.peer, route("198.51.100.1/32"))
			conn := r.accept()
			conn.send(c.message(t))
			if n := conn.notified(); n.Code != c.code || n.Subcode != c.subcode {
				t.Errorf("%d/%d, want %d/%d", n.Code, n.Subcode, c.code, c.subcode)
			}
			eventually(t, 5*time.Second, func() (bool, any) {
				v := s.view(r.peer.Name)
				return v.Fault != nil && v.Fault.Text == c.text, show(v)
			})
			r.establish().drain()
			s.established(r.peer.Name)
		})
	}
}

func TestWhatEndsASessionIsTold(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		do    func(*testing.T, *call)
		cause bgp.Cause
		text  string
		// answer is the NOTIFICATION to be heard; nil for none.
		answer *wire.Notification
	}{
		{"the router goes", func(_ *testing.T, c *call) { _ = c.Conn.(*net.TCPConn).CloseWrite() }, bgp.ConnectionLost, "the router closed the connection", nil},
		{"the router resets", func(_ *testing.T, c *call) { _ = c.Conn.(*net.TCPConn).SetLinger(0); c.Close() }, bgp.ConnectionLost, "the router reset the connection", nil},
		{
			"the router says why", func(_ *testing.T, c *call) {
				c.send(wire.AppendNotification(nil, wire.Cease(wire.CeaseShutdown, "replaced at noon")))
			}, bgp.Notified, "the router says: cease: administrative shutdown: replaced at noon", nil,
		},
		{"a notification of nothing", func(t *testing.T, c *call) { c.send(message(t, wire.TypeNotification, "00 00")) }, bgp.Notified, "the router says: code 0", nil},
		{"half a notification", func(t *testing.T, c *call) { c.send(message(t, wire.TypeNotification, "06")); c.unanswered() }, bgp.Malformed, "NOTIFICATION of 20 octets", nil},
		{"an OPEN again", func(_ *testing.T, c *call) { c.send(wire.AppendOpen(nil, polite)) }, bgp.Malformed, "the router sends OPEN where it has no place", &wire.Notification{Code: 5, Subcode: 3}},
		{"an update without room for its lengths", func(t *testing.T, c *call) { c.send(message(t, wire.TypeUpdate, "ffff")) }, bgp.Malformed, "UPDATE of 21 octets", &wire.Notification{Code: 1, Subcode: 2}},
		{"a keepalive with a body", func(t *testing.T, c *call) { c.send(message(t, wire.TypeKeepalive, "00")) }, bgp.Malformed, "KEEPALIVE of 20 octets", &wire.Notification{Code: 1, Subcode: 2}},
		{"half a message", func(t *testing.T, c *call) {
			c.send(wire.AppendKeepalive(nil)[:10])
			_ = c.Conn.(*net.TCPConn).CloseWrite()
		}, bgp.ConnectionLost, "the router closed the connection", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := speak(t)
			r := newRouter(t)
			s.say(r.peer, route("198.51.100.1/32"))
			conn := r.establish()
			eventually(t, 5*time.Second, func() (bool, any) { v := s.view(r.peer.Name); return v.State == bgp.Established, v })
			c.do(t, conn)
			if c.answer != nil {
				if n := conn.notified(); n.Code != c.answer.Code || n.Subcode != c.answer.Subcode {
					t.Errorf("%v, want %v", n, c.answer)
				}
			}
			if v := s.faults(r.peer.Name, c.cause); v.Fault.Text != c.text || v.Counters.Flaps != 1 {
				t.Errorf("%s %+v, want %q", show(v), v.Counters, c.text)
			}
			r.establish().drain()
			s.established(r.peer.Name)
		})
	}
}

// A router that was shut down for a while takes connections and closes them. What it
// said when it went stays to be read.
func TestGuessesDoNotHideTheRoutersWords(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r := newRouter(t)
	s.say(r.peer, route("198.51.100.1/32"))
	conn := r.establish()
	s.established(r.peer.Name)
	conn.send(wire.AppendNotification(nil, wire.Cease(wire.CeaseShutdown, "see you at noon")))
	conn.Close()
	for range 3 {
		r.accept().Close()
	}
	// The fourth call comes after the third was found closed.
	again := r.accept()
	if v := s.view(r.peer.Name); v.Fault == nil || v.Fault.Text != "the router says: cease: administrative shutdown: see you at noon" {
		t.Error(show(v))
	}
	again.Close()
	r.establish().drain()
	s.established(r.peer.Name)
}

// A router whose OPEN is late is waited for; what that may mean is told meanwhile.
func TestSlowRouterIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r := newRouter(t)
	s.say(r.peer, route("198.51.100.1/32"), route("2001:db8:100::1/128"))
	c := r.accept()
	if v := s.faults(r.peer.Name, bgp.Silent); v.State != bgp.OpenSent || v.Fault.Text != "the router has taken the connection and sends no OPEN" {
		t.Error(show(v))
	}
	c.send(wire.AppendOpen(nil, polite))
	eventually(t, within, func() (bool, any) { v := s.view(r.peer.Name); return v.State == bgp.OpenConfirm, show(v) })
	c.send(wire.AppendKeepalive(nil))
	c.drain()
	c.talk()
	if v := s.established(r.peer.Name); v.Sent != 1 || v.Counters.Flaps != 0 {
		t.Error(show(v))
	}
}

func TestSilentRouterIsToldTheHoldTimerExpired(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r := newRouter(t)
	r.peer.HoldTime = 3 * time.Second
	s.say(r.peer, route("198.51.100.1/32"))
	c := r.establish()
	start := time.Now()
	if n := c.notified(); n.Code != wire.CodeHoldTimer {
		t.Errorf("%v", n)
	}
	if took := time.Since(start); took < 2*time.Second || took > 5*time.Second {
		t.Errorf("hold timer of 3 s expired after %v", took)
	}
	s.faults(r.peer.Name, bgp.HoldTimerExpired)
}

func TestUpdatesKeepASessionAlive(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r := newRouter(t)
	r.peer.HoldTime = 3 * time.Second
	s.say(r.peer, route("198.51.100.1/32"))
	c := r.establish()
	c.drain()
	// No KEEPALIVE for two hold times, only what is swallowed.
	for range 12 {
		time.Sleep(500 * time.Millisecond)
		c.send(message(t, wire.TypeUpdate, "0000 0000 20 c0000201"))
	}
	if v := s.established(r.peer.Name); v.Counters.Established != 1 || v.Received != 1 {
		t.Errorf("%s %+v", show(v), v.Counters)
	}
}

func TestHoldTimeZeroMeansNoTimers(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r := newRouter(t)
	r.peer.HoldTime = 0
	s.say(r.peer, route("198.51.100.1/32"))
	c := r.establish()
	seen := 0
	for seen < 1 {
		typ, _, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if typ == wire.TypeUpdate {
			seen++
		}
	}
	s.established(r.peer.Name)
	s.say(r.peer)
	for {
		typ, body, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		withdrawn := false
		if typ == wire.TypeKeepalive {
			t.Fatal("a KEEPALIVE on a session without")
		}
		_, _ = wire.ParseUpdate(body, func(c wire.Change) { withdrawn = c.Withdrawn })
		if withdrawn {
			return
		}
	}
}

func TestFloodOfPrefixesCostsNothing(t *testing.T) {
	s := speak(t)
	r := newRouter(t)
	r.peer.MaximumPrefixes = 50
	s.say(r.peer, route("198.51.100.1/32"))
	c := r.establish()
	c.drain()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 2000 {
		var body strings.Builder
		body.WriteString("0000 0000")
		for j := range 100 {
			fmt.Fprintf(&body, "20 0a%02x%02x%02x", i>>8, i&0xff, j)
		}
		c.send(message(t, wire.TypeUpdate, body.String()))
	}
	eventually(t, 10*time.Second, func() (bool, any) {
		v := s.view(r.peer.Name)
		return v.Counters.UpdatesIn == 2000, v
	})
	v := s.established(r.peer.Name)
	if v.Received != 50 || !v.TooMany {
		t.Errorf("%d received, too many: %v", v.Received, v.TooMany)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("200,000 prefixes left %d octets", grown)
	}
}

// A router that is alive but reads nothing for longer than the hold time is waited for
// (RFC 9687), and costs its neighbors nothing.
func TestRouterThatDoesNotReadIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r, good := newRouter(t), newRouter(t)
	good.peer.Name += "-good"
	r.peer.HoldTime = 3 * time.Second
	var routes []bgp.Route
	for i := range 600 {
		// Long attributes, no two alike, so that none are packed together.
		var a bgp.Attributes
		for j := range 40 {
			a.Communities = append(a.Communities, lb.Community{Large: true, A: 1, B: uint32(i), C: uint32(j)})
		}
		routes = append(routes, bgp.Route{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32), Attributes: a})
	}
	s.Set([]bgp.Session{{Peer: r.peer, RouterID: routerID, Routes: routes}, {Peer: good.peer, RouterID: routerID, Routes: routes}})
	c := r.establish()
	c.talk()
	g := good.establish()
	g.talk()
	g.drain()
	// Two hold times and more, by what it says every half a second.
	eventually(t, within, func() (bool, any) {
		v := s.view(r.peer.Name)
		return v.Counters.MessagesIn > 14, fmt.Sprintf("%s %+v", show(v), v.Counters)
	})
	if v := s.view(r.peer.Name); v.State != bgp.Established || v.Sent == len(routes) || v.Counters.Flaps > 0 {
		t.Errorf("%s %+v", show(v), v.Counters)
	}
	c.drain()
	for _, name := range []string{good.peer.Name, r.peer.Name} {
		eventually(t, 20*time.Second, func() (bool, any) {
			v := s.view(name)
			return v.Sent == len(routes) && v.Counters.Established == 1, v
		})
	}
}

func TestTableIsSaidAgainOnRequestButNotTooOften(t *testing.T) {
	t.Parallel()
	s := speak(t)
	r := newRouter(t)
	s.say(r.peer, route("198.51.100.1/32"))
	c := r.establish()
	s.established(r.peer.Name)
	// A flood of requests, also for what the session does not carry, and the
	// brackets of RFC 7313.
	start := time.Now()
	for range 5000 {
		c.send(wire.AppendRouteRefresh(nil, wire.IPv4Unicast))
		c.send(wire.AppendRouteRefresh(nil, wire.Family{AFI: 25, SAFI: 70}))
		c.send(message(t, wire.TypeRouteRefresh, "0002 01 01"))
	}
	tables := 0
	for tables < 5 {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("%d tables within 10 s", tables)
		}
		typ, body, err := c.read()
		if err != nil {
			t.Fatal(err)
		}
		if typ == wire.TypeUpdate {
			_, _ = wire.ParseUpdate(body, func(wire.Change) { tables++ })
		}
		c.send(wire.AppendRouteRefresh(nil, wire.IPv4Unicast))
	}
	// Two are the session's own, one is said at once, the others a second apart.
	if took := time.Since(start); took < 1500*time.Millisecond {
		t.Errorf("%d tables within %v", tables, took)
	}
}
