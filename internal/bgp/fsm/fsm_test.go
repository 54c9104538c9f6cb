package fsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/transcript"
)

// TestTranscripts runs the conversations in testdata. A block is a command, "----", and
// what it prints; lines that start with # are comments. Jitter is off: an interval is
// what it says. What is written is taken at once, unless the router is stalled.
//
//	session [hold=DUR] [keepalive=DUR] [families=4,6] [over=IP] [restart] [role=R [require]] [ttl=HOPS]   begins anew; we are AS 65000, the router is 65001
//	recv open [as=N] [hold=N] [families=4,6] [octets=2] [nexthop6] [restart] [role=R] | nothing in it: no capabilities
//	recv keepalive | half | refresh FAMILY | update PREFIX... | notification CODE SUBCODE [HEX]
//	say [broken] +PREFIX@NEXTHOP... -PREFIX... | end FAMILY   an UPDATE of gobgp's
//	stall, resume                            the router reads nothing, or again
//	trace [ttl=N] [unacknowledged]           what the kernel knows from now on, in this session
//	sleep DUR [unread]                       lets time pass
//	fails TEXT, lost TEXT                    what writing, or reading, came to
//	close TEXT                               we want to end
func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World { return &conversation{t: t} })
}

type conversation struct {
	t       *testing.T
	s       *Session
	now     time.Duration
	stalled bool
	trace   bgp.Trace
	state   bgp.State
	out     strings.Builder
}

// Line does what a line says, and returns what came of it.
func (c *conversation) Line(line string) string {
	c.out.Reset()
	c.line(strings.Fields(line))
	return c.out.String()
}

func (c *conversation) line(args []string) {
	values := map[string]string{}
	for _, a := range args[1:] {
		k, v, _ := strings.Cut(a, "=")
		values[k] = v
	}
	text := strings.Join(args[1:], " ")
	switch args[0] {
	case "session":
		p := lb.BGPPeer{MyASN: 65000, PeerASN: 65001, Address: netip.MustParseAddr("192.0.2.1"), HoldTime: 90 * time.Second}
		if v := values["hold"]; v != "" {
			p.HoldTime = transcript.Duration(c.t, v)
		}
		p.TTLSecurity = transcript.Number(c.t, values["ttl"], 0)
		p.KeepaliveTime = transcript.Duration(c.t, values["keepalive"])
		if v := values["over"]; v != "" {
			p.Address = netip.MustParseAddr(v)
		}
		for f := range strings.SplitSeq(values["families"], ",") {
			switch f {
			case "4":
				p.Families = append(p.Families, lb.IPv4)
			case "6":
				p.Families = append(p.Families, lb.IPv6)
			}
		}
		if _, ok := values["restart"]; ok {
			p.GracefulRestart = &lb.GracefulRestart{}
		}
		for r := lb.NoRole; r <= lb.RolePeer; r++ {
			if r.String() == values["role"] {
				p.Role = r
			}
		}
		_, p.RequireRole = values["require"]
		ours := bgp.LocalOpen(p, netip.MustParseAddr("192.0.2.10"), false)
		c.now, c.stalled, c.trace, c.state = 0, false, bgp.Trace{}, bgp.OpenSent
		s, e := New(Config{
			Open: ours, MaximumPrefixes: 2, Jitter: func() float64 { return 1 },
			Silence: func(state bgp.State, t bgp.Trace) *bgp.Fault { return bgp.Silence(p, state, t) },
			Judge:   func(theirs wire.Open) (bgp.Negotiated, error) { return bgp.Negotiate(p, ours, theirs) },
		}, 0)
		c.s = s
		c.happened(e)
	case "recv":
		typ, body := c.message(args[1:], values)
		c.happened(c.s.Receive(typ, body, c.now))
	case "say":
		if !c.s.Ready() {
			fmt.Fprintf(&c.out, "%v not ready\n", c.now)
			return
		}
		frame := c.update(slices.DeleteFunc(args[1:], func(a string) bool { return a == "broken" }))
		if _, broken := values["broken"]; broken {
			i := bytes.Index(frame, []byte{0x50, 1, 0, 1, 0}) // ORIGIN
			frame[i+1] = 99
		}
		c.happened(c.s.Say([][]byte{frame}, c.now))
		if v4, v6 := c.s.Unsaid(lb.IPv4), c.s.Unsaid(lb.IPv6); v4+v6 > 0 {
			fmt.Fprintf(&c.out, "%v unsaid: %d of IPv4, %d of IPv6\n", c.now, v4, v6)
		}
	case "stall":
		c.stalled = true
	case "resume":
		c.stalled = false
		c.happened(c.s.Wrote(c.now))
	case "trace":
		_, unacknowledged := values["unacknowledged"]
		c.trace = bgp.Trace{TTL: transcript.Number(c.t, values["ttl"], 0), Unacknowledged: unacknowledged}
	case "sleep":
		_, unread := values["unread"]
		end := c.now + transcript.Duration(c.t, args[1])
		for {
			at, ok := c.s.Next()
			if !ok || at > end || at < c.now {
				break
			}
			c.now = at
			if c.happened(c.s.Tick(c.now, unread, func() bgp.Trace { return c.trace })); unread {
				if next, _ := c.s.Next(); next == at { // what it waits for is not in this test
					break
				}
			}
		}
		c.now = end
	case "fails":
		c.happened(c.s.WriteFailed(Loss{errors.New(text), text}, c.now))
	case "lost":
		c.happened(c.s.Lost(Loss{errors.New(text), text}, c.now))
	case "close":
		c.happened(c.s.Close(Ending{&bgp.Fault{Cause: bgp.Leave, Text: text}, new(wire.Cease(wire.CeaseShutdown, text))}))
	default:
		c.t.Fatalf("unknown command %q", args)
	}
}

// happened prints effects, and takes what is to be written.
func (c *conversation) happened(e Effects) {
	if state := c.s.State(); state != c.state {
		c.state = state
		fmt.Fprintf(&c.out, "%v %v\n", c.now, state)
	}
	c.show(e.Write)
	if e.Refresh != nil {
		fmt.Fprintf(&c.out, "%v say %v again\n", c.now, e.Refresh)
	}
	if e.Doubt != nil {
		fmt.Fprintf(&c.out, "%v doubt, %v: %s\n", c.now, e.Doubt.Cause, e.Doubt.Text)
	}
	if e.End != nil {
		fmt.Fprintf(&c.out, "%v over, %v: %s\n", c.now, e.End.Fault.Cause, e.End.Fault.Text)
		if n := e.End.Notification; n != nil {
			fmt.Fprintf(&c.out, "%v send NOTIFICATION %d/%d %x\n", c.now, n.Code, n.Subcode, n.Data)
		}
	}
	if len(e.Write) > 0 && !c.stalled {
		c.happened(c.s.Wrote(c.now))
	}
}

// show prints messages.
func (c *conversation) show(b []byte) {
	for len(b) > 0 {
		typ, n, err := wire.ParseHeader([wire.HeaderLen]byte(b))
		if err != nil {
			c.t.Fatal(err)
		}
		fmt.Fprintf(&c.out, "%v send %v", c.now, typ)
		if typ == wire.TypeUpdate {
			end, err := wire.ParseUpdate(b[wire.HeaderLen:wire.HeaderLen+n], func(ch wire.Change) {
				fmt.Fprintf(&c.out, " %s%v", map[bool]string{true: "-", false: "+"}[ch.Withdrawn], ch.Prefix)
			})
			if err != nil {
				c.t.Fatal(err)
			}
			if end != nil {
				fmt.Fprintf(&c.out, " end of %v", end)
			}
		}
		c.out.WriteString("\n")
		b = b[wire.HeaderLen+n:]
	}
}

// message makes one of the router's.
func (c *conversation) message(args []string, values map[string]string) (wire.Type, []byte) {
	var b []byte
	switch args[0] {
	case "open":
		o := wire.Open{AS: uint32(transcript.Number(c.t, values["as"], 65001)), HoldTime: uint16(transcript.Number(c.t, values["hold"], 90)), ID: netip.MustParseAddr("192.0.2.1")}
		for f := range strings.SplitSeq(values["families"], ",") {
			switch f {
			case "4":
				o.Families = append(o.Families, wire.IPv4Unicast)
			case "6":
				o.Families = append(o.Families, wire.IPv6Unicast)
			}
		}
		o.FourOctetAS = len(o.Families) > 0 && values["octets"] != "2"
		_, o.ExtendedNextHop = values["nexthop6"]
		if _, ok := values["restart"]; ok {
			o.GracefulRestart = &wire.GracefulRestart{Time: 120}
		}
		for r := lb.NoRole; r <= lb.RoleUnknown; r++ {
			if r.String() == values["role"] {
				o.Role = r
			}
		}
		b = wire.AppendOpen(nil, o)
	case "half": // of a NOTIFICATION
		return wire.TypeNotification, []byte{6}
	case "keepalive":
		b = wire.AppendKeepalive(nil)
	case "refresh":
		b = wire.AppendRouteRefresh(nil, family(args[1]))
	case "update":
		var signed []string
		for _, p := range args[1:] {
			signed = append(signed, p+"@192.0.2.1")
		}
		b = c.update(signed)
	case "notification":
		data, err := hex.DecodeString(strings.Join(args[3:], ""))
		if err != nil {
			c.t.Fatal(err)
		}
		b = wire.AppendNotification(nil, wire.Notification{Code: uint8(transcript.Number(c.t, args[1], 0)), Subcode: uint8(transcript.Number(c.t, args[2], 0)), Data: data})
	default:
		c.t.Fatalf("no message %q", args)
	}
	return wire.Type(b[18]), b[wire.HeaderLen:]
}

func family(s string) wire.Family {
	if s == "4" {
		return wire.IPv4Unicast
	}
	return wire.IPv6Unicast
}

// update makes an UPDATE as gobgp could.
func (c *conversation) update(args []string) []byte {
	if args[0] == "end" {
		return wire.AppendEndOfRIB(nil, family(args[1]))
	}
	var changes []change
	for _, a := range args {
		p, hop, _ := strings.Cut(a[1:], "@")
		ch := change{prefix: netip.MustParsePrefix(p)}
		if a[0] == '+' {
			ch.hop = netip.MustParseAddr(hop)
		}
		changes = append(changes, ch)
	}
	return gobgpUpdate([]uint32{65000}, changes)
}

// A change is a prefix with the next hop by which it is announced; without one it is
// withdrawn.
type change struct {
	prefix netip.Prefix
	hop    netip.Addr
}

// gobgpUpdate makes one UPDATE of changes, mixed as the RFC lets a sender mix them. The
// next hops of a family's routes are alike.
func gobgpUpdate(path []uint32, changes []change) []byte {
	var withdrawn, routes, reach, unreach, hop4 []byte
	var hop []byte
	reachFamily := byte(2)
	for _, ch := range changes {
		a := ch.prefix.Addr()
		nlri := append([]byte{byte(ch.prefix.Bits())}, a.AsSlice()[:(ch.prefix.Bits()+7)/8]...)
		switch {
		case !ch.hop.IsValid() && a.Is4():
			withdrawn = append(withdrawn, nlri...)
		case !ch.hop.IsValid():
			unreach = append(unreach, nlri...)
		case a.Is4() && ch.hop.Is4():
			routes, hop4 = append(routes, nlri...), ch.hop.AsSlice()
		default:
			if a.Is4() {
				reachFamily = 1
			}
			reach, hop = append(reach, nlri...), ch.hop.AsSlice()
		}
	}
	var attrs []byte
	attribute := func(flags, code byte, value []byte) {
		attrs = binary.BigEndian.AppendUint16(append(attrs, flags|0x10, code), uint16(len(value)))
		attrs = append(attrs, value...)
	}
	if len(routes)+len(reach) > 0 {
		attribute(0x40, 1, []byte{0})
		as := []byte{2, byte(len(path))}
		for _, n := range path {
			as = binary.BigEndian.AppendUint32(as, n)
		}
		if len(path) == 0 {
			as = nil
		}
		attribute(0x40, 2, as)
		attribute(0x40, 5, []byte{0, 0, 0, 100})
	}
	if len(routes) > 0 {
		attribute(0x40, 3, hop4)
	}
	if len(unreach) > 0 {
		attribute(0x80, 15, append([]byte{0, 2, 1}, unreach...))
	}
	if len(reach) > 0 {
		attribute(0x80, 14, append(append(append([]byte{0, reachFamily, 1, byte(len(hop))}, hop...), 0), reach...))
	}
	b := wire.AppendEndOfRIB(nil, wire.IPv4Unicast)[:wire.HeaderLen]
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(withdrawn))), withdrawn...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(attrs))), attrs...)
	b = append(b, routes...)
	binary.BigEndian.PutUint16(b[16:], uint16(len(b)))
	return b
}
