package election

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/transcript"
)

// TestViewTranscripts runs the histories in testdata/view. Node n gossips at
// address n; what a View wants done after each line is printed, with everything
// that a packet, a log or another part of the speaker gets to see.
//
//	view NODE [boot=N] [size=N] [slow=D] [lost=D]     a node starts
//	peers NODE...                                     where others should be
//	many N                                            so many others
//	local [owned=A,..] [offered=A,..] [on=NAME:INDEX:MAC:PREFIX,..] [sessions=N,..] [leaving] [fast]
//	crowd N                                           so many others are alive and own nothing; prints nothing
//	heard NODE [at NODE]                              gossip finds it alive, at its address or another's
//	lost NODE
//	answer NODE silent|answers|speaks|unknown silent|refused|open [round=N]
//	watchable NODE...                                 they understand detection
//	sight NODE in|out                                 what its watches, each of them, see now
//	replied NODE                                      one that is missed has answered on its segment
//	alarmed NODE SUSPECT                              a member tells of another
//	denied SUSPECT                                    a member had an answer from it
//	stopped
//	move NODE                                         it gossips at that node's address from now on
//	receive KIND RECORD                               relayed, direct, knock, doubt
//	state RECORD; RECORD...                           the other's own first
//	  RECORD: NODE [boot=N] seq=N [epoch=N] [joining] [leaving] [part] [sessions=N,..] [on=...] [A=QUORUM@EPOCH ...]
//	pass D                                            it acts when it wants to
//	+LINE                                             the same, and the View does not act yet
//	idle D                                            it does not run at all
func TestViewTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/view/*.txt", func(t *testing.T) transcript.World { return &viewWorld{T: t} })
}

type viewWorld struct {
	*testing.T
	v    *View
	now  time.Duration
	next time.Duration
	// rounds are those of the last question about each node.
	rounds map[string]int
	ring   Ring
}

// at is where a node gossips: a, c, e have IPv4 addresses, the others IPv6.
func at(node string) netip.Addr {
	n := node[0] - 'a' + 1
	if n%2 == 1 {
		return netip.AddrFrom4([4]byte{192, 0, 2, n})
	}
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: n})
}

// nodeAt is the node that gossips at an address.
func nodeAt(a netip.Addr) string {
	bytes := a.AsSlice()
	if n := bytes[len(bytes)-1]; n >= 1 && n <= 26 {
		return string(rune('a' + n - 1))
	}
	return a.String()
}

// Line does what a line says, and lets the View act.
func (w *viewWorld) Line(line string) string {
	line, waits := strings.CutPrefix(line, "+")
	args := strings.Fields(line)
	verb, args := args[0], args[1:]
	switch verb {
	case "view":
		o := options(args[1:])
		w.v = NewView(args[0], at(args[0]), uint64(transcript.Number(w.T, o["boot"], 7)),
			DefaultPace(transcript.Number(w.T, o["size"], 3), durationOr(w.T, o["slow"], 1500*time.Millisecond), durationOr(w.T, o["lost"], 300*time.Millisecond)))
		w.rounds = map[string]int{}
	case "peers":
		var peers []netip.Addr
		for _, n := range args {
			peers = append(peers, at(n))
		}
		w.v.SetPeers(w.now, peers)
	case "many":
		var peers []netip.Addr
		a := netip.MustParseAddr("2001:db8:1::1")
		for range transcript.Number(w.T, args[0], 0) {
			peers, a = append(peers, a), a.Next()
		}
		w.v.SetPeers(w.now, peers)
	case "crowd":
		a := netip.MustParseAddr("2001:db8:2::1")
		for i := range transcript.Number(w.T, args[0], 0) {
			r := &Record{Node: fmt.Sprintf("crowd-%d", i), Address: a, Boot: 1, Seq: 1, Whole: true, Claims: Claims{}}
			w.v.Heard(w.now, r.Node, a)
			w.v.Receive(w.now, r, Direct)
			a = a.Next()
		}
		w.next = w.v.Settle(w.now).Next
		return ""
	case "local":
		w.v.SetLocal(w.local(options(args)))
	case "heard":
		where := at(args[0])
		if len(args) > 1 {
			where = at(args[2])
		}
		w.v.Heard(w.now, args[0], where)
	case "lost":
		w.v.Lost(w.now, args[0])
	case "answer":
		segment := map[string]Reply{"unknown": Unknown, "silent": Silent, "answers": Answers, "speaks": Speaks}[args[1]]
		port := map[string]Port{"unknown": PortUnknown, "silent": PortSilent, "refused": PortRefused, "open": PortOpen}[args[2]]
		round := transcript.Number(w.T, options(args)["round"], w.rounds[args[0]])
		w.v.Answered(w.now, args[0], Answer{Round: round, Segment: segment, Port: port})
	case "pinged":
		w.v.Pinged(w.now, args[0], map[string]Protocols{"udp": UDP, "tcp": TCP}[args[1]])
	case "move":
		w.v.Move(w.now, at(args[0]))
	case "watchable":
		for _, n := range args {
			w.v.Watchable(n, true)
		}
	case "sight":
		for _, watch := range w.ring.Watches {
			if watch.Node == args[0] {
				w.v.Sighted(w.now, watch, map[string]Sight{"in": InSight, "out": OutOfSight}[args[1]])
			}
		}
	case "replied":
		w.v.Replied(args[0], w.rounds[args[0]])
	case "alarmed":
		w.v.Alarmed(w.now, args[0], args[1])
	case "denied":
		w.v.Denied(w.now, args[0])
	case "stopped":
		w.v.Stopped(w.now)
	case "receive":
		kind := slices.IndexFunc([]Kind{Relayed, Direct, Knock, Doubt}, func(k Kind) bool { return k.String() == args[0] })
		w.v.Receive(w.now, w.record(args[1:]), Kind(kind))
	case "state":
		var records []*Record
		for r := range strings.SplitSeq(strings.Join(args, " "), ";") {
			records = append(records, w.record(strings.Fields(r)))
		}
		w.v.ReceiveState(w.now, records)
	case "pass":
		return w.pass(transcript.Duration(w.T, args[0]))
	case "idle":
		w.now += transcript.Duration(w.T, args[0])
	default:
		w.Fatalf("unknown line %q", line)
	}
	if waits {
		return ""
	}
	return w.settle()
}

// settle lets the View act now, and says what it wants done.
func (w *viewWorld) settle() string {
	e := w.v.Settle(w.now)
	w.next = e.Next
	for _, q := range e.Questions {
		w.rounds[q.Suspect.Node] = q.Round
	}
	if e.Ring != nil {
		w.ring = *e.Ring
	}
	return w.show(e)
}

// pass lets time go on, and the View act whenever it wants to. Of what it does over
// and over it shows the first, and how often it did so again.
func (w *viewWorld) pass(d time.Duration) string {
	var out strings.Builder
	var last string
	again := 0
	tell := func(step string) {
		_, does, _ := strings.Cut(step, "\n")
		if does == last {
			again++
			return
		}
		if again > 0 {
			fmt.Fprintf(&out, "%d times more, until %v\n", again, w.now)
		}
		out.WriteString(step)
		last, again = does, 0
	}
	for end := w.now + d; ; tell(w.settle()) {
		if w.next <= w.now {
			w.Fatalf("at %v it wants to act at %v", w.now, w.next)
		}
		if w.next > end {
			w.now = end
			tell(w.settle())
			tell("")
			return out.String()
		}
		w.now = w.next
	}
}

func options(args []string) map[string]string {
	out := map[string]string{}
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		out[key] = value
	}
	return out
}

func durationOr(t *testing.T, s string, otherwise time.Duration) time.Duration {
	if s == "" {
		return otherwise
	}
	return transcript.Duration(t, s)
}

func (w *viewWorld) local(o map[string]string) Local {
	l := Local{Owned: addrsOf(o["owned"]), Offered: addrsOf(o["offered"]), Sessions: numbers(w.T, o["sessions"])}
	_, l.Leaving = o["leaving"]
	if _, fast := o["fast"]; fast {
		l.Detection = lb.DetectFast
	}
	l.Interfaces = interfacesOf(w.T, o["on"])
	return l
}

func interfacesOf(t *testing.T, s string) (out []lb.Interface) {
	for i := range strings.SplitSeq(s, ",") {
		parts := strings.SplitN(i, ":", 4)
		if len(parts) != 4 {
			continue
		}
		out = append(out, lb.Interface{
			Name: parts[0], Index: transcript.Number(t, parts[1], 0), MAC: lb.MAC{5: byte(transcript.Number(t, parts[2], 0))}, Up: true, Carrier: true,
			Addresses: []netip.Prefix{netip.MustParsePrefix(parts[3])},
		})
	}
	return out
}

func addrsOf(s string) (out []netip.Addr) {
	for a := range strings.SplitSeq(s, ",") {
		if a != "" {
			out = append(out, netip.MustParseAddr(a))
		}
	}
	return out
}

func numbers(t *testing.T, s string) (out []lb.SessionID) {
	for n := range strings.SplitSeq(s, ",") {
		if n != "" {
			out = append(out, lb.SessionID(transcript.Number(t, n, 0)))
		}
	}
	return out
}

func (w *viewWorld) record(args []string) *Record {
	r := &Record{Node: args[0], Address: at(args[0]), Boot: 1, Whole: true, Claims: Claims{}}
	for _, a := range args[1:] {
		key, value, _ := strings.Cut(a, "=")
		number := func() uint64 { return uint64(transcript.Number(w.T, value, 0)) }
		switch key {
		case "boot":
			r.Boot = number()
		case "seq":
			r.Seq = number()
		case "epoch":
			r.Epoch = number()
		case "joining":
			r.Joining = true
		case "leaving":
			r.Leaving = true
		case "part":
			r.Whole, r.Claims = false, nil
		case "sessions":
			r.Sessions = numbers(w.T, value)
		case "on":
			r.Interfaces = interfacesOf(w.T, value)
		default:
			quorum, epoch, _ := strings.Cut(value, "@")
			q := slices.IndexFunc([]Quorum{NoClaim, Offered, Blind, Minority, Majority}, func(q Quorum) bool { return q.String() == quorum })
			e, err := strconv.ParseUint(epoch, 10, 64)
			if q < 0 || err != nil {
				w.Fatalf("what claim is %q?", a)
			}
			r.Claims[netip.MustParseAddr(key)] = Claim{Quorum: Quorum(q), Epoch: e}
		}
	}
	return r
}

// show prints effects, one a line, with the time when anything is to be done.
func (w *viewWorld) show(e Effects) string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, c := range e.Changes {
		doubted := ""
		if c.Doubted {
			doubted = fmt.Sprintf(", doubted for %v", c.For)
		}
		add("%s is %v (%v)%s", c.Node, c.State, c.Cause, doubted)
	}
	if e.Blocked != nil {
		var to []string
		for _, b := range e.Blocked {
			to = append(to, b.Node+": "+b.Protocols.String())
		}
		add("gossip is blocked to [%s]", strings.Join(to, ", "))
	}
	for _, q := range e.Questions {
		add("ask the segment for %s, round %d", showMember(q.Suspect), q.Round)
	}
	for _, a := range e.Alarms {
		var to []string
		for _, t := range a.To {
			to = append(to, nodeAt(t))
		}
		add("alarm %s about %s", strings.Join(to, ", "), a.Suspect)
	}
	for _, d := range e.Denials {
		add("tell %s that %s answers", nodeAt(d.To), d.Suspect)
	}
	if e.Cleared > 0 {
		add("%d cleared", e.Cleared)
	}
	if e.Ring != nil {
		for _, watch := range e.Ring.Watches {
			add("watch %s on interface %d: %v to %v", watch.Node, watch.Interface, watch.Local, watch.Remote)
		}
		for _, q := range e.Ring.Soundings {
			add("sound %v", q.Target)
		}
		if len(e.Ring.Watches)+len(e.Ring.Soundings) == 0 {
			add("watch nobody")
		}
	}
	if n := len(e.Tells); n > 20 {
		add("tell %d others", n)
	} else {
		for _, t := range e.Tells {
			stream := ""
			if t.Stream {
				stream = ", by a stream, too"
			}
			add("tell %s: %v%s", nodeAt(t.To), t.Kind, stream)
		}
	}
	if n := len(e.Exchanges); n > 20 {
		add("exchange with %d others", n)
	} else {
		for _, a := range e.Exchanges {
			add("exchange with %s", nodeAt(a))
		}
	}
	for _, a := range e.Urgent {
		add("exchange with %s at once", nodeAt(a))
	}
	if e.Refute {
		add("refute")
	}
	for _, r := range e.News {
		add("pass on %s", showRecord(r))
	}
	if n := len(e.Members); n > 20 {
		add("%d members", n)
	} else {
		for _, m := range e.Members {
			add("member %s", showMember(m))
		}
	}
	if n := len(e.Records); n > 20 {
		add("hand over %d records", n)
	} else {
		for _, r := range e.Records {
			add("hand over %s", showRecord(r))
		}
	}
	if out == nil {
		return ""
	}
	return fmt.Sprintf("at %v, next %v\n  %s\n", w.now, e.Next, strings.Join(out, "\n  "))
}

func showMember(m Member) string {
	return fmt.Sprintf("%s %s %v %d.%d%s%s", m.Node, nodeAt(m.Address), m.State, m.Version.Boot, m.Version.Seq, showSessions(m.Interfaces, m.Sessions), showClaims(m.Claims))
}

func showRecord(r *Record) string {
	flags := ""
	if r.Joining {
		flags += " joining"
	}
	if r.Leaving {
		flags += " leaving"
	}
	if !r.Whole {
		flags += " part"
	}
	return fmt.Sprintf("%s %s %d.%d epoch %d%s%s%s", r.Node, nodeAt(r.Address), r.Boot, r.Seq, r.Epoch, flags, showSessions(r.Interfaces, r.Sessions), showClaims(r.Claims))
}

func showSessions(interfaces []lb.Interface, sessions []lb.SessionID) string {
	out := ""
	for _, i := range interfaces {
		out += fmt.Sprintf(" %s:%d:%d:%v", i.Name, i.Index, i.MAC[5], i.Addresses)
	}
	if len(sessions) > 0 {
		out += fmt.Sprintf(" sessions %v", sessions)
	}
	return out
}

func showClaims(claims Claims) string {
	var out []string
	for a, c := range claims {
		out = append(out, fmt.Sprintf(" %v=%v@%d", a, c.Quorum, c.Epoch))
	}
	slices.Sort(out)
	return strings.Join(out, "")
}
