package report

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/ranges"
	"github.com/belfrylb/belfry/internal/transcript"
)

// TestTranscripts tells what Services are told of what speakers report. The
// configuration is an L2Advertisement for every pool, unless there is none.
//
//	node NODE..                                 ready nodes, beside those that are there
//	unready NODE, deleted NODE                  its conditions, its object
//	layer2 on|off                               whether there is an L2Advertisement
//	bgp PEER..                                  a BGPAdvertisement, and peers of both families
//	configuration WORD                          that of the controller
//	service NAME ADDR[@NODE].. [idle]           holds addresses, recorded so; idle: no endpoint
//	failback                                    addresses fail back at once
//	report NODE [WORD=LIST|WORD]..              is written: answers=, from=, probing=, withheld=ADDR/MAC, unheard=,
//	                                            up=PEER, v4=PEER, v6=PEER, down=PEER, ended=PEER, configuration=, class=, conflict=ADDR/MAC,
//	                                            verified=NODE/ADDR,.., unanswered=NODE/ADDR, twice=NODE/ADDR/STATION,.. of whom
//	                                            answers: STATION is kernel:NODE, speaker:NODE, unheard:NODE or stranger:MAC
//	                                            joining, leaving, stopped, mute, uncabled
//	unwritten NODE                              its SpeakerStatus is deleted
//	unreadable, readable                        whether reports can be read
//	edited NAME                                 somebody removes the Service's condition
//	lead                                        another controller leads
//	sleep DUR
//	view                                        who is believed, and what follows
//	standings                                   what becomes of each address by each protocol
//
// After each line that changes something the Services are told, and so they are
// whenever the Teller or the View asked for it.
func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World { return newWorld(t) })
}

var start = time.Unix(1000, 0)

// A world is what reports are about, and the controller that reads them.
type world struct {
	t        *testing.T
	now      time.Time
	snapshot lb.Snapshot
	ready    map[string]bool
	reports  []Report
	blind    bool
	teller   *Teller
	view     *View
	settings Settings
	says     map[lb.ServiceKey]Condition
	recorded map[netip.Addr]string
	again    map[lb.ServiceKey]time.Time
	// standings are the latest of each address.
	standings map[netip.Addr]AddressStanding
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, now: start, ready: map[string]bool{}, teller: new(Teller),
		says: map[lb.ServiceKey]Condition{}, recorded: map[netip.Addr]string{}, again: map[lb.ServiceKey]time.Time{},
		standings: map[netip.Addr]AddressStanding{},
	}
	w.snapshot.Configuration = "c1"
	w.snapshot.Pools = []lb.Pool{{Name: "edge"}}
	w.snapshot.L2Advertisements = []lb.L2Advertisement{{Name: "all"}}
	return w
}

// Line does what a line says.
func (w *world) Line(line string) string {
	words := strings.Fields(line)
	verb, words := words[0], words[1:]
	switch verb {
	case "node":
		for _, name := range words {
			w.ready[name] = true
		}
	case "unready":
		w.ready[words[0]] = false
	case "deleted":
		delete(w.ready, words[0])
	case "layer2":
		w.snapshot.L2Advertisements = nil
		if words[0] == "on" {
			w.snapshot.L2Advertisements = []lb.L2Advertisement{{Name: "all"}}
		}
	case "bgp":
		w.snapshot.BGPAdvertisements = []lb.BGPAdvertisement{{Name: "all"}}
		w.snapshot.BGPPeers = nil
		for i, name := range words {
			w.snapshot.BGPPeers = append(w.snapshot.BGPPeers, lb.BGPPeer{
				Name: name, Families: []lb.Family{lb.IPv4, lb.IPv6}, Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}),
			})
		}
	case "configuration":
		w.snapshot.Configuration = words[0]
	case "failback":
		w.snapshot.L2Advertisements[0].Failback = lb.FailbackImmediate
	case "service":
		w.service(words[0], words[1:])
	case "report":
		w.report(words[0], words[1:])
	case "unwritten":
		w.reports = slices.DeleteFunc(w.reports, func(r Report) bool { return r.Node == words[0] })
	case "unreadable", "readable":
		w.blind = verb == "unreadable"
	case "edited":
		delete(w.says, key(words[0]))
	case "lead":
		w.teller, w.view = new(Teller), nil
		clear(w.again)
	case "sleep":
		return w.sleep(transcript.Duration(w.t, words[0]))
	case "view":
		return w.show()
	case "standings":
		return w.stand()
	default:
		w.t.Fatalf("what is %q?", line)
	}
	return w.look()
}

func key(name string) lb.ServiceKey { return lb.ServiceKey{Namespace: "web", Name: name} }

func (w *world) service(name string, words []string) {
	s := lb.Service{Key: key(name), TrafficPolicy: lb.TrafficCluster}
	serving := lb.NodeEndpoints{"n1": {Ready: 1}}
	if slices.Contains(words, "idle") {
		serving = nil
	}
	s.Endpoints = lb.Endpoints{IPv4: serving, IPv6: serving}
	for _, word := range words {
		if word == "idle" {
			continue
		}
		a, node, _ := strings.Cut(word, "@")
		addr := netip.MustParseAddr(a)
		s.Assigned = append(s.Assigned, addr)
		s.AssignedPools = append(s.AssignedPools, "edge")
		w.recorded[addr] = cmp.Or(node, w.recorded[addr])
	}
	w.snapshot.Services = slices.DeleteFunc(w.snapshot.Services, func(o lb.Service) bool { return o.Key == s.Key })
	w.snapshot.Services = append(w.snapshot.Services, s)
}

func addrs(list string) (out []netip.Addr) {
	for a := range strings.SplitSeq(list, ",") {
		out = append(out, netip.MustParseAddr(a))
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// proofs are results about what a node owns.
func (w *world) proofs(kind, text string) (out []proof.Result) {
	kinds := map[string]proof.Kind{"verified": proof.Verified, "unanswered": proof.Unanswered, "twice": proof.AnsweredTwice}
	parts := strings.Split(text, "/")
	v := proof.Result{Owner: parts[0], Kind: kinds[kind]}
	if len(parts) > 2 {
		for s := range strings.SplitSeq(parts[2], ",") {
			voice, whose, _ := strings.Cut(s, ":")
			mac, err := lb.ParseMAC(whose)
			if err != nil {
				mac = lb.MAC{2, 4: byte(len(whose)), 5: whose[1]}
			} else {
				whose = ""
			}
			v.By = append(v.By, proof.Station{MAC: mac, Node: whose, Voice: proof.ParseVoice(strings.ToUpper(voice[:1]) + voice[1:])})
		}
	}
	for _, v.Address = range addrs(parts[1]) {
		out = append(out, v)
	}
	return out
}

func (w *world) report(node string, words []string) {
	i := slices.IndexFunc(w.reports, func(r Report) bool { return r.Node == node })
	r := Report{Node: node, State: election.Alive, Seen: w.now, Configuration: "c1", Withheld: map[netip.Addr]lb.MAC{}}
	r.Interfaces = []lb.Interface{{Name: "eth0", Up: true, Carrier: true, MAC: lb.MAC{2, 5: 1}, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}}}
	if i >= 0 {
		// How it came by what it had already stays.
		r.Transitions = slices.Clone(w.reports[i].Transitions)
		w.reports = slices.Delete(w.reports, i, i+1)
	}
	from := ""
	for _, word := range words {
		name, list, _ := strings.Cut(word, "=")
		stranger := func() (netip.Addr, lb.MAC) {
			a, station, _ := strings.Cut(list, "/")
			mac, err := lb.ParseMAC(station)
			if err != nil {
				w.t.Fatal(err)
			}
			return netip.MustParseAddr(a), mac
		}
		session := func(s Session) {
			s.Peer, s.Families = list, []lb.Family{lb.IPv4, lb.IPv6}
			r.Sessions = append(r.Sessions, s)
		}
		switch name {
		case "answers":
			r.Answers = addrs(list)
		case "from":
			from = list
		case "probing":
			r.Probing = addrs(list)
		case "withheld":
			a, mac := stranger()
			r.Withheld[a] = mac
		case "conflict":
			a, mac := stranger()
			r.Conflicts = append(r.Conflicts, Conflict{Address: a, MAC: mac, Heard: "reply", At: w.now})
		case "verified", "unanswered", "twice":
			r.Proofs = append(r.Proofs, w.proofs(name, list)...)
		case "unheard":
			r.Unheard = strings.Split(list, ",")
		case "up":
			session(Session{Established: true, Remote: "192.0.2.1"})
		case "v4", "v6":
			session(Session{Established: true, Remote: "192.0.2.1"})
			is := &r.Sessions[len(r.Sessions)-1]
			carried, waits := lb.IPv4, lb.IPv6
			if name == "v6" {
				carried, waits = waits, carried
			}
			is.Families, is.Waits = []lb.Family{carried}, map[lb.Family]string{waits: fmt.Sprintf("the router does not carry %v in this session", waits)}
		case "down":
			session(Session{Error: "hold timer expired"})
		case "ended":
			session(Session{Error: "administratively shut down", Ours: true})
		case "configuration":
			r.Configuration = list
		case "class":
			r.Settings.Class = list
		case "joining":
			r.State = election.Joining
		case "leaving":
			r.State = election.Leaving
		case "stopped":
			r.State = election.Gone
		case "mute":
			r.Mute, r.Configuration = true, ""
		case "uncabled":
			r.Interfaces = nil
		default:
			w.t.Fatalf("what is %q?", word)
		}
	}
	var fresh []netip.Addr
	for _, a := range r.Answers {
		if _, known := r.origin(a); !known {
			fresh = append(fresh, a)
		}
	}
	for i := range r.Transitions {
		r.Transitions[i].Addresses = slices.DeleteFunc(slices.Clone(r.Transitions[i].Addresses), func(a netip.Addr) bool { return !contains(r.Answers, a) })
	}
	if len(fresh) > 0 {
		r.Transitions = append(r.Transitions, Transition{Since: w.now, From: from, Addresses: fresh})
	}
	w.reports = append(w.reports, r)
	for i := range w.reports {
		w.reports[i].Order = i
	}
}

// at is how long it is since the world began.
func (w *world) at() time.Duration { return w.now.Sub(start) }

// look makes the view anew and tells every Service, as the controller does.
func (w *world) look() string {
	before := w.view
	reports := append([]Report{}, w.reports...)
	if w.blind {
		reports = nil
	}
	w.view = NewView(before, reports, w.now, func(node string) (exists, ready bool) {
		ready, exists = w.ready[node]
		return exists, ready
	})
	var out strings.Builder
	if before != nil {
		for _, c := range w.view.SessionChanges(before) {
			fmt.Fprintf(&out, "%v session of %s with %s: established %v %s\n", w.at(), c.Node, c.Peer, c.Established, c.Error)
		}
	}
	out.WriteString(w.tell())
	return out.String()
}

func (w *world) tell() string {
	w.snapshot.Nodes = nil
	for _, name := range slices.Sorted(maps.Keys(w.ready)) {
		w.snapshot.Nodes = append(w.snapshot.Nodes, lb.Node{Name: name, NotReady: !w.ready[name]})
	}
	for i := range w.snapshot.Services {
		s := &w.snapshot.Services[i]
		s.Placed = nil
		for _, a := range s.Assigned {
			s.Placed = append(s.Placed, w.recorded[a])
		}
	}
	var subjects []Subject
	for _, s := range w.snapshot.Services {
		subjects = append(subjects, Subject{Key: s.Key, Addresses: s.Assigned, Says: w.says[s.Key]})
	}
	var out strings.Builder
	index := announce.NewIndex(w.snapshot, eligibility.Options{})
	for _, t := range w.teller.Tell(index, w.view, subjects, func(a netip.Addr) string { return w.recorded[a] }, w.now) {
		name := t.Service.Name
		for _, s := range t.Standings {
			w.standings[s.Address] = s
		}
		if t.Condition != (Condition{}) && t.Condition != w.says[t.Service] {
			w.says[t.Service] = t.Condition
			fmt.Fprintf(&out, "%v %s: %v %s: %s\n", w.at(), name, t.Announced, t.Reason, t.Message)
		}
		if t.Event != (Event{}) {
			fmt.Fprintf(&out, "%v %s: event %s: %s\n", w.at(), name, t.Event.Kind, t.Event.Message)
		}
		for _, a := range slices.SortedFunc(maps.Keys(t.Record), netip.Addr.Compare) {
			w.recorded[a] = t.Record[a]
			fmt.Fprintf(&out, "%v %s: record %v on %s\n", w.at(), name, a, t.Record[a])
		}
		delete(w.again, t.Service)
		if t.Again > 0 {
			w.again[t.Service] = w.now.Add(t.Again)
		}
	}
	return out.String()
}

// sleep lets time pass, and looks again when that was asked for.
func (w *world) sleep(d time.Duration) string {
	end := w.now.Add(d)
	var out strings.Builder
	for range 1000 {
		next := end
		for _, at := range w.again {
			if at.Before(next) {
				next = at
			}
		}
		if until := w.view.Until; !until.IsZero() && until.Before(next) {
			next = until
		}
		if !next.Before(end) {
			w.now = end
			return out.String()
		}
		w.now = next
		out.WriteString(w.look())
	}
	w.t.Fatal("it asks to be looked at again and again")
	return ""
}

func (w *world) stand() string {
	var out strings.Builder
	for _, a := range slices.SortedFunc(maps.Keys(w.standings), netip.Addr.Compare) {
		fmt.Fprintf(&out, "%v layer2 %v bgp %v\n", a, w.standings[a].Layer2, w.standings[a].BGP)
	}
	return out.String()
}

func (w *world) show() string {
	var out strings.Builder
	for _, m := range w.view.members {
		fmt.Fprintf(&out, "%s %v answers %s\n", m.Node, m.State, strings.Join(ranges.Format(w.view.believed[m.Node].Answers), " "))
	}
	for _, node := range slices.Sorted(maps.Keys(w.ready)) {
		switch {
		case w.view.Unknown(node):
			fmt.Fprintf(&out, "%s unknown\n", node)
		case !w.view.Believes(node):
			fmt.Fprintf(&out, "%s not believed\n", node)
		}
	}
	for _, peer := range slices.Sorted(maps.Keys(w.view.sessions)) {
		c := w.view.Sessions(peer)
		fmt.Fprintf(&out, "sessions with %s: %d of %d\n", peer, c.Up, c.Total)
		if c.Waits != "" {
			fmt.Fprintf(&out, "  %s\n", c.Waits)
		}
	}
	for _, c := range w.view.Conflicts() {
		fmt.Fprintf(&out, "conflict: %v %v %s\n", c.Address, c.MAC, c.Heard)
	}
	for _, r := range w.view.Strays(w.settings) {
		fmt.Fprintf(&out, "%s: %s\n", r.Node, r.Settings.Differs(w.settings))
	}
	return out.String()
}
