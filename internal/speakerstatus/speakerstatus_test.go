package speakerstatus

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/report"
)

var began = time.Date(2026, 3, 1, 8, 0, 0, 123456789, time.UTC)

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range list {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func wanted(peers ...lb.BGPPeer) []bgp.Session {
	var all []bgp.Session
	for _, p := range peers {
		all = append(all, bgp.Session{Peer: p})
	}
	return all
}

// world is a node with something of everything.
func world() Knowledge {
	index := announce.NewIndex(lb.Snapshot{
		Nodes: []lb.Node{{Name: "node1"}, {Name: "node2"}, {Name: "node3"}},
		L2Advertisements: []lb.L2Advertisement{
			{Name: "edge", ExcludeInterfaces: []string{"veth*", "docker*"}},
			{Name: "storage", Interfaces: []string{"bond0"}},
		},
		Configuration: "0123456789abcdef",
	}, eligibility.Options{})
	return Knowledge{
		Node: "node1", Version: "v0.1.0", Index: index, Detection: lb.DetectStandard,
		Interfaces: []lb.Interface{
			{Index: 1, Name: "lo", Up: true, Carrier: true, Loopback: true, Addresses: prefixes("127.0.0.1/8", "::1/128")},
			{Index: 2, Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, 0, 1}, Up: true, Carrier: true, Addresses: prefixes("2001:db8::11/64", "192.0.2.11/24", "fe80::1/64", "192.0.2.12/24")},
			{Index: 3, Name: "eth1", MAC: lb.MAC{2, 0, 0, 0, 0, 2}, Up: true},
			{Index: 4, Name: "docker0", MAC: lb.MAC{2, 0, 0, 0, 0, 3}, Up: true, Carrier: true, Addresses: prefixes("172.17.0.1/16")},
			{Index: 5, Name: "veth1", MAC: lb.MAC{2, 0, 0, 0, 0, 4}, Up: true, Carrier: true, Addresses: prefixes("fe80::2/64")},
			{Index: 6, Name: "veth2", MAC: lb.MAC{2, 0, 0, 0, 0, 5}, Up: true, Carrier: true, Addresses: prefixes("10.244.0.1/32", "fd00::1/128")},
			{Index: 7, Name: "tun0", Up: true, Carrier: true, NoARP: true, Addresses: prefixes("10.8.0.1/24")},
		},
		Members: []election.Member{
			{Node: "node1", State: election.Alive},
			{Node: "node3", State: election.Suspected},
			{Node: "node2", State: election.Stalled},
			{Node: "node4", State: election.Leaving},
			{Node: "node5", State: election.Joining},
		},
		State:    election.Alive,
		Settings: report.Settings{Class: "example.com/lb", DrainTaint: "maintenance", IgnoreExcludeLB: true, Namespace: "belfry-system"},
		Now:      began,
		Unheard:  []string{"node7", "node6"},
		Blocked:  []election.Blocked{{Node: "node2", Protocols: election.UDP | election.TCP}, {Node: "node3", Protocols: election.TCP}},
		Answers: []core.Answer{
			{Claim: layer2.Claim{Address: netip.MustParseAddr("2001:db8::80"), Interfaces: []int{2}}, Since: began, Cause: core.OwnerLost, From: "node2"},
			{Claim: layer2.Claim{Address: netip.MustParseAddr("203.0.113.7"), Interfaces: []int{3, 2, 99}}, Since: began.Add(time.Minute)},
			{Claim: layer2.Claim{Address: netip.MustParseAddr("2001:db8::81"), Interfaces: []int{2}}, Since: began, Cause: core.OwnerLost, From: "node2"},
		},
		Withheld: map[netip.Addr]layer2.Heard{
			netip.MustParseAddr("203.0.113.8"):  {},
			netip.MustParseAddr("2001:db8::90"): {},
			netip.MustParseAddr("2001:db8::91"): {MAC: lb.MAC{2, 0, 0, 0, 0, 0x99}, Kind: layer2.HeardReply, At: began},
		},
		Conflicts: []report.Conflict{{Address: netip.MustParseAddr("2001:db8::80"), MAC: lb.MAC{2, 0, 0, 0, 0, 0x98}, Node: "node9", Heard: "reply", At: began}},
		Proofs: []proof.Result{
			{Address: netip.MustParseAddr("203.0.113.20"), Owner: "node3", Kind: proof.Verified},
			{Address: netip.MustParseAddr("203.0.113.21"), Owner: "node3", Kind: proof.Verified},
			{Address: netip.MustParseAddr("203.0.113.22"), Owner: "node3", Kind: proof.AnsweredTwice, Since: began.Add(time.Hour), By: twice},
			{Address: netip.MustParseAddr("203.0.113.23"), Owner: "node3", Kind: proof.AnsweredTwice, Since: began, By: twice},
			{Address: netip.MustParseAddr("2001:db8::23"), Owner: "node4", Kind: proof.Unanswered, Since: began},
		},
		Routing: bgp.Intent{
			Sessions: wanted(
				lb.BGPPeer{Name: "tor", Address: netip.MustParseAddr("192.0.2.1"), GracefulRestart: &lb.GracefulRestart{}},
				lb.BGPPeer{Name: "away", Address: netip.MustParseAddr("2001:db8::1")},
				lb.BGPPeer{Name: "closed"}, lb.BGPPeer{Name: "locked"}, lb.BGPPeer{Name: "fresh", Interface: "eth1"}, lb.BGPPeer{Name: "begun"},
				lb.BGPPeer{Name: "unwatched", Address: netip.MustParseAddr("2001:db8::2")},
			),
			Conflicts: []bgp.Conflict{{Advertisement: "younger", Older: "older", Attribute: "med", Prefix: netip.MustParsePrefix("203.0.113.7/32"), Peer: "tor"}},
			Rivals:    []bgp.Rival{{Peer: "twin", Older: "tor"}},
		},
		Aside: []lb.ServiceKey{{Namespace: "web", Name: "odd"}},
		Sessions: []bgp.SessionView{
			{
				Peer: "tor", State: bgp.Established, Since: began, Sent: 12, Routes: 12, BFD: "Up", BFDFault: "of a time when it was not up",
				Unsendable: map[lb.Family]int{lb.IPv6: 3, lb.IPv4: 1},
				NextHops:   map[lb.Family]bgp.NextHop{lb.IPv6: {Lack: bgp.AddressAbsent, Interface: "eth0"}, lb.IPv4: {Address: netip.MustParseAddr("192.0.2.10")}},
				Remote:     netip.MustParseAddrPort("192.0.2.1:179"),
				Fault:      &bgp.Fault{Cause: bgp.HoldTimerExpired, Text: "hold timer expired"},
				Negotiated: &bgp.Negotiated{
					Families: []lb.Family{lb.IPv4, lb.IPv6}, FourOctetAS: true,
					Capabilities: wire.Capabilities{RouteRefresh: true, GracefulRestart: &wire.GracefulRestart{}, LongLived: []wire.LongLived{{}}},
				},
			},
			{Peer: "away", State: bgp.Connect, Since: began, Fault: &bgp.Fault{Cause: bgp.ConnectionRefused, Text: "connection refused by 2001:db8::1"}},
			{Peer: "closed", State: bgp.Idle, Since: began, Fault: &bgp.Fault{Cause: bgp.AdminShutdown, Text: "administratively shut down"}},
			{Peer: "locked", State: bgp.Idle, Since: began, Fault: &bgp.Fault{Cause: bgp.PasswordMissing, Text: "Secret tor does not exist"}},
			{Peer: "ending", State: bgp.Established},
			{Peer: "unwatched", State: bgp.Established, Since: began, BFD: "Down", BFDFault: "the neighbor does not authenticate its packets"},
			{Peer: "fresh", State: bgp.OpenSent, Since: began, Remote: netip.MustParseAddrPort("[fe80::1%eth1]:179"), BFD: "nonsense"},
		},
		Findings: []config.Finding{
			{Kind: "IPAddressPool", Name: "edge"},
			{Kind: "BGPPeer", Name: "locked", Problems: []config.Problem{{Field: "spec.passwordSecret", Reason: v1beta1.ReasonSecretMissing, Why: "Secret tor does not exist"}}},
			{Kind: "BGPAdvertisement", Name: "early", Problems: []config.Problem{{Field: "spec.peers[0]", Reason: v1beta1.ReasonUnknownName, Why: "there is no BGPPeer x"}}},
		},
	}
}

var twice = []proof.Station{
	{MAC: lb.MAC{2, 0, 0, 0, 0, 3}, Node: "node3", Voice: proof.Speaker},
	{MAC: lb.MAC{2, 0, 0, 0, 0, 2}, Node: "node2", Voice: proof.Kernel},
	{MAC: lb.MAC{2, 0, 0, 0, 0, 5}, Node: "node5", Voice: proof.Silent},
	{MAC: lb.MAC{2, 0, 0, 0, 0, 0x99}},
}

const story = `
bgp:
  sessions:
  - address: 2001:db8::1
    cause: ConnectionRefused
    lastError: connection refused by 2001:db8::1
    peer: away
    prefixesSent: 0
    since: "2026-03-01T08:00:00Z"
    state: Connect
  - peer: begun
    prefixesSent: 0
    state: Connect
  - peer: closed
    prefixesSent: 0
    since: "2026-03-01T08:00:00Z"
    state: Shutdown
  - address: fe80::1%eth1
    peer: fresh
    prefixesSent: 0
    since: "2026-03-01T08:00:00Z"
    state: Connect
  - cause: PasswordMissing
    lastError: Secret tor does not exist
    peer: locked
    prefixesSent: 0
    since: "2026-03-01T08:00:00Z"
    state: Idle
  - address: 192.0.2.1
    bfd: Up
    capabilities:
    - IPv4
    - IPv6
    - four-octet-as
    - graceful-restart
    - route-refresh
    cause: HoldTimerExpired
    lastError: hold timer expired
    notSent:
    - family: IPv4
      message: what they say is longer than a message of this session
      prefixes: 1
    - family: IPv6
      message: eth0 has no IPv6 address that the router could use as next hop; give
        it one
      prefixes: 3
    peer: tor
    prefixesSent: 12
    since: "2026-03-01T08:00:00Z"
    state: Established
  - address: 2001:db8::2
    bfd: Down
    bfdError: the neighbor does not authenticate its packets
    peer: unwatched
    prefixesSent: 0
    since: "2026-03-01T08:00:00Z"
    state: Established
  total: 7
  up: 2
conditions:
- lastTransitionTime: "2026-03-01T08:00:00Z"
  message: 'gossip is blocked between this node and node2 (UDP and TCP), node3 (TCP):
    see that its port is open between the nodes, by UDP and by TCP'
  reason: PortBlocked
  status: "True"
  type: GossipBlocked
configuration: 0123456789abcdef
detection: standard
interfaces:
- carrier: true
  mac: "02:00:00:00:00:03"
  name: docker0
  reason: no L2Advertisement selects it
  subnets:
  - 172.17.0.0/16
  usable: false
- carrier: true
  mac: "02:00:00:00:00:01"
  name: eth0
  subnets:
  - 192.0.2.0/24
  - 2001:db8::/64
  usable: true
- carrier: false
  mac: "02:00:00:00:00:02"
  name: eth1
  reason: no carrier
  usable: false
- carrier: true
  name: tun0
  reason: NOARP
  subnets:
  - 10.8.0.0/24
  usable: false
layer2:
  answers:
  - addresses:
    - 2001:db8::80-81
    interfaces:
    - eth0
  - addresses:
    - 203.0.113.7
    interfaces:
    - eth0
    - eth1
  conflicts:
  - address: 2001:db8::80
    heard: reply
    mac: 02:00:00:00:00:98
    node: node9
    since: "2026-03-01T08:00:00.123456Z"
  faults:
  - addresses:
    - 203.0.113.22-23
    answeredBy:
    - mac: "02:00:00:00:00:03"
      node: node3
      voice: Speaker
    - mac: "02:00:00:00:00:02"
      node: node2
      voice: Kernel
    - mac: "02:00:00:00:00:05"
      node: node5
      voice: Unheard
    - mac: 02:00:00:00:00:99
      voice: Stranger
    node: node3
    reason: AnsweredTwice
    since: "2026-03-01T08:00:00.123456Z"
  - addresses:
    - 2001:db8::23
    node: node4
    reason: Unanswered
    since: "2026-03-01T08:00:00.123456Z"
  probing:
  - 203.0.113.8
  - 2001:db8::90
  total: 3
  transitions:
  - addresses:
    - 2001:db8::80-81
    cause: OwnerLost
    count: 2
    from: node2
    since: "2026-03-01T08:00:00.123456Z"
  - addresses:
    - 203.0.113.7
    cause: Unowned
    count: 1
    since: "2026-03-01T08:01:00.123456Z"
  verified:
  - addresses:
    - 203.0.113.20-21
    node: node3
  withheld:
  - address: 2001:db8::91
    heard: reply
    mac: 02:00:00:00:00:99
    since: "2026-03-01T08:00:00.123456Z"
membership:
  alive: 1
  blocked:
  - node: node2
    protocols:
    - UDP
    - TCP
  - node: node3
    protocols:
    - TCP
  suspected:
  - node2
  - node3
  unheard:
  - node6
  - node7
notApplied:
- kind: BGPAdvertisement
  message: med of 203.0.113.7/32 to tor contradicts the older BGPAdvertisement older
  name: younger
  reason: Conflict
- kind: BGPPeer
  message: 'spec.passwordSecret: Secret tor does not exist.'
  name: locked
  reason: SecretMissing
- kind: BGPPeer
  message: The older BGPPeer tor is for the same router; this one holds no session
    from this node.
  name: twin
  reason: Conflict
- kind: L2Advertisement
  message: None of this node's interfaces that it permits can announce.
  name: storage
  reason: NoUsableInterface
- kind: Service
  message: The speaker fails over this Service, which is an error of the speaker.
    It is left as it was until it changes; please report what the log says.
  name: web/odd
  reason: SetAside
phase: Running
settings:
  drainTaint: maintenance
  ignoreExcludeLB: true
  loadBalancerClass: example.com/lb
  namespace: belfry-system
version: v0.1.0
`

func TestAStatusSaysWhatIsKnown(t *testing.T) {
	got, err := yaml.Marshal(Compose(world(), v1beta1.SpeakerStatusStatus{}))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimPrefix(story, "\n"); string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestASpeakerThatKnowsNothingSaysSo(t *testing.T) {
	got := Compose(Knowledge{Node: "node1", Version: "v1", Interfaces: world().Interfaces}, v1beta1.SpeakerStatusStatus{})
	for _, i := range got.Interfaces {
		if i.Usable || i.Reason == "" {
			t.Errorf("without configuration %s is usable, or it is not said why not: %+v", i.Name, i)
		}
	}
	if got.Layer2.Total != 0 || got.BGP.Total != 0 || got.Membership.Alive != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAStatusDoesNotDependOnAnyOrder(t *testing.T) {
	want := Compose(world(), v1beta1.SpeakerStatusStatus{})
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		k := world()
		r.Shuffle(len(k.Interfaces), func(i, j int) { k.Interfaces[i], k.Interfaces[j] = k.Interfaces[j], k.Interfaces[i] })
		r.Shuffle(len(k.Members), func(i, j int) { k.Members[i], k.Members[j] = k.Members[j], k.Members[i] })
		r.Shuffle(len(k.Answers), func(i, j int) { k.Answers[i], k.Answers[j] = k.Answers[j], k.Answers[i] })
		r.Shuffle(len(k.Sessions), func(i, j int) { k.Sessions[i], k.Sessions[j] = k.Sessions[j], k.Sessions[i] })
		r.Shuffle(len(k.Findings), func(i, j int) { k.Findings[i], k.Findings[j] = k.Findings[j], k.Findings[i] })
		if got := Compose(k, v1beta1.SpeakerStatusStatus{}); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n%+v\nwant\n%+v", seed, got, want)
		}
	}
}

func TestComposingLeavesWhatItIsGivenAlone(t *testing.T) {
	k := world()
	Compose(k, v1beta1.SpeakerStatusStatus{})
	if !reflect.DeepEqual(k.Answers, world().Answers) || !reflect.DeepEqual(k.Interfaces, world().Interfaces) || !reflect.DeepEqual(k.Members, world().Members) {
		t.Error("the speaker's own lists were changed")
	}
}

// A router that is away is tried again and again; that is no news.
func TestAttemptsToConnectChangeNothing(t *testing.T) {
	fault := &bgp.Fault{Cause: bgp.Unanswered, Text: "SYN unanswered by 192.0.2.1"}
	k := Knowledge{Routing: bgp.Intent{Sessions: wanted(lb.BGPPeer{Name: "tor"})}, Sessions: []bgp.SessionView{{Peer: "tor", State: bgp.Idle, Since: began, Fault: fault}}}
	status := Compose(k, v1beta1.SpeakerStatusStatus{})
	for n, state := range []bgp.State{bgp.Connect, bgp.OpenSent, bgp.OpenConfirm, bgp.Idle} {
		k.Sessions = []bgp.SessionView{{Peer: "tor", State: state, Since: began.Add(time.Duration(n) * time.Minute), Fault: fault}}
		if again := Compose(k, status); !reflect.DeepEqual(again, status) {
			t.Errorf("%v is news:\n%+v\nafter\n%+v", state, again, status)
		}
	}
	// Being established is, and since when is its own; so is being away again.
	up := began.Add(time.Hour)
	k.Sessions = []bgp.SessionView{{Peer: "tor", State: bgp.Established, Since: up}}
	status = Compose(k, status)
	if s := status.BGP.Sessions[0]; s.State != v1beta1.SessionEstablished || !s.Since.Time.Equal(up.Truncate(time.Second)) {
		t.Errorf("established: %+v", s)
	}
	k.Sessions = []bgp.SessionView{{Peer: "tor", State: bgp.Established, Since: up.Add(time.Hour)}}
	if s := Compose(k, status).BGP.Sessions[0]; !s.Since.Time.Equal(up.Add(time.Hour).Truncate(time.Second)) {
		t.Errorf("established anew: %+v", s)
	}
	down := up.Add(2 * time.Hour)
	k.Sessions = []bgp.SessionView{{Peer: "tor", State: bgp.Idle, Since: down, Fault: fault}}
	if s := Compose(k, status).BGP.Sessions[0]; s.State != v1beta1.SessionConnect || !s.Since.Time.Equal(down.Truncate(time.Second)) {
		t.Errorf("lost: %+v", s)
	}
}

// Huge is a world larger than any status may be.
func huge() Knowledge {
	k := world()
	k.Version = strings.Repeat("v", 500)
	for n := range 400 {
		k.Interfaces = append(k.Interfaces, lb.Interface{
			Index: 100 + n, Name: fmt.Sprintf("x%03d", n), MAC: lb.MAC{2}, Up: true, Carrier: n%3 == 0, Addresses: prefixes(fmt.Sprintf("10.%d.%d.1/24", 128+n/256, n%256)),
		})
		k.Members = append(k.Members, election.Member{Node: fmt.Sprintf("n%03d", n), State: election.Suspected})
		k.Routing.Sessions = append(k.Routing.Sessions, wanted(lb.BGPPeer{Name: fmt.Sprintf("p%03d", n)})...)
		k.Sessions = append(k.Sessions, bgp.SessionView{Peer: fmt.Sprintf("p%03d", n), Fault: &bgp.Fault{Cause: bgp.Malformed, Text: strings.Repeat("ü", 500)}})
		k.Findings = append(k.Findings, config.Finding{Kind: "BGPPeer", Name: fmt.Sprintf("p%03d", n), Problems: []config.Problem{
			{Field: "spec", Reason: v1beta1.ReasonInvalid, Why: strings.Repeat("é", 500)},
		}})
	}
	var everywhere []int
	for _, i := range k.Interfaces {
		everywhere = append(everywhere, i.Index)
	}
	for n := range 2000 {
		on := everywhere
		if n%2 == 0 {
			on = everywhere[n%200 : n%200+1]
		}
		k.Answers = append(k.Answers, core.Answer{
			Claim: layer2.Claim{Address: netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), Interfaces: on},
			Since: began.Add(time.Duration(n%100) * time.Second),
		})
		k.Withheld[netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)})] = layer2.Heard{MAC: lb.MAC{2, 1}}
		k.Conflicts = append(k.Conflicts, report.Conflict{Address: netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), MAC: lb.MAC{2, 1}, At: began})
		k.Unheard = append(k.Unheard, fmt.Sprintf("u%04d", n))
		k.Proofs = append(k.Proofs,
			proof.Result{Address: netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), Owner: fmt.Sprintf("n%04d", n), Kind: proof.Verified},
			proof.Result{
				Address: netip.AddrFrom4([4]byte{198, 19, byte(n >> 8), byte(n)}), Owner: fmt.Sprintf("n%04d", n), Kind: proof.AnsweredTwice, Since: began,
				By: slices.Repeat([]proof.Station{{MAC: lb.MAC{2}}}, 20),
			})
		k.Blocked = append(k.Blocked, election.Blocked{Node: fmt.Sprintf("u%04d", n), Protocols: election.UDP})
	}
	for n := range 100 {
		k.Interfaces[1].Addresses = append(k.Interfaces[1].Addresses, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 1}), 24))
	}
	return k
}

func TestWhatDoesNotFitIsLeftOutButCounted(t *testing.T) {
	s := Compose(huge(), v1beta1.SpeakerStatusStatus{})
	usable, most := 0, 0
	for _, a := range s.Layer2.Answers {
		most = max(most, len(a.Interfaces))
	}
	for _, i := range s.Interfaces {
		if i.Usable {
			usable++
		}
	}
	for what, got := range map[string]error{
		"interfaces":    want(len(s.Interfaces), 256),
		"usable":        want(usable, 135), // eth0 and every third of the rest
		"suspected":     want(len(s.Membership.Suspected), 64),
		"unheard":       want(len(s.Membership.Unheard), 256),
		"blocked":       want(len(s.Membership.Blocked), 64),
		"groups":        want(len(s.Layer2.Answers), 64),
		"withheld":      want(len(s.Layer2.Withheld), 256),
		"conflicts":     want(len(s.Layer2.Conflicts), 64),
		"verified":      want(len(s.Layer2.Verified), 256),
		"faults":        want(len(s.Layer2.Faults), 64),
		"answered by":   want(len(s.Layer2.Faults[0].AnsweredBy), 16),
		"transitions":   want(len(s.Layer2.Transitions), 64),
		"all addresses": want(int(s.Layer2.Total), 2003),
		"listed":        want(len(Read(&v1beta1.SpeakerStatus{Status: s}).Answers), 2003),
		"sessions":      want(len(s.BGP.Sessions), 128),
		"all sessions":  want(int(s.BGP.Total), 407),
		"not applied":   want(len(s.NotApplied), 64),
		"version":       want(len(s.Version), 128),
		"subnets":       want(len(s.Interfaces[slices.IndexFunc(s.Interfaces, func(i v1beta1.InterfaceStatus) bool { return i.Name == "eth0" })].Subnets), 64),
		"of an address": want(most, 32),
	} {
		if got != nil {
			t.Errorf("%s: %v", what, got)
		}
	}
	if !slices.IsSortedFunc(s.Interfaces, func(a, b v1beta1.InterfaceStatus) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("the interfaces are not sorted")
	}
	for _, b := range s.BGP.Sessions {
		if len(b.LastError) > 512 || strings.ContainsRune(b.LastError, '\uFFFD') {
			t.Errorf("%q is cut wrongly", b.LastError)
		}
	}
}

func want(got, want int) error {
	if got != want {
		return errors.New(fmt.Sprint(got, ", want ", want))
	}
	return nil
}

func TestWhatCameOfARequestStaysUntilTheNext(t *testing.T) {
	k := world()
	k.Response = &proof.Response{
		Request: "2001:db8::80 x", At: began, Interface: "eth0",
		Heard: []proof.Heard{
			{Station: proof.Station{MAC: lb.MAC{2, 0, 0, 0, 0, 9}, Node: "node9", Voice: proof.Kernel}, After: 48999 * time.Nanosecond},
			{Station: proof.Station{MAC: lb.MAC{2, 0, 0, 0, 0, 0x99}}, After: 3 * time.Millisecond},
		},
	}
	is := Compose(k, v1beta1.SpeakerStatusStatus{})
	want := &v1beta1.ProbeStatus{
		Request: "2001:db8::80 x", At: metav1.NewMicroTime(began.Truncate(time.Microsecond)), Interface: "eth0", Total: 2,
		Answers: []v1beta1.ProbeAnswer{
			{MAC: "02:00:00:00:00:09", Node: "node9", Voice: v1beta1.VoiceKernel, AfterMicroseconds: 48},
			{MAC: "02:00:00:00:00:99", Voice: v1beta1.VoiceStranger, AfterMicroseconds: 3000},
		},
	}
	if !reflect.DeepEqual(is.Probe, want) {
		t.Errorf("it is %+v, want %+v", is.Probe, want)
	}
	k.Response = nil // the speaker has started anew
	if again := Compose(k, is); !reflect.DeepEqual(again.Probe, want) {
		t.Errorf("after a restart it is %+v", again.Probe)
	}
	k.Response = &proof.Response{Request: strings.Repeat("ü", 300), At: began, Problem: strings.Repeat("ü", 600), Heard: make([]proof.Heard, 100)}
	if p := Compose(k, is).Probe; len(p.Request) > 128 || len(p.Problem) > 512 || len(p.Answers) != 64 || p.Total != 100 {
		t.Errorf("what does not fit is left: %d, %d bytes, %d answers of %d", len(p.Request), len(p.Problem), len(p.Answers), p.Total)
	}
}

func TestAConditionKeepsTheTimeOfItsLastChange(t *testing.T) {
	k := world()
	is := Compose(k, v1beta1.SpeakerStatusStatus{})
	k.Now = began.Add(time.Hour)
	k.Blocked = k.Blocked[:1]
	again := Compose(k, is)
	if c := again.Conditions[0]; c.Status != metav1.ConditionTrue || !c.LastTransitionTime.Equal(&is.Conditions[0].LastTransitionTime) || c.Message == is.Conditions[0].Message {
		t.Errorf("after %+v it is %+v", is.Conditions[0], c)
	}
	k.Blocked = nil
	if c := Compose(k, again).Conditions[0]; c.Status != metav1.ConditionFalse || !c.LastTransitionTime.Time.Equal(k.Now.Truncate(time.Second)) {
		t.Errorf("it ends at %v: %+v", k.Now, c)
	}
	for _, state := range []election.State{election.Joining, election.Gone} {
		if k.State = state; Compose(k, again).Conditions != nil {
			t.Errorf("a speaker that is %v says whether gossip is blocked", state)
		}
	}
}

// What a speaker says is what the controller reads, but for what only people read.
func TestWhatIsWrittenIsRead(t *testing.T) {
	k := world()
	k.Sessions[0].Unsendable = map[lb.Family]int{lb.IPv4: 1}
	got := Read(&v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: Compose(k, v1beta1.SpeakerStatusStatus{})})
	moment := began.Truncate(time.Microsecond)
	addr := netip.MustParseAddr
	want := report.Report{
		Node: "node1", State: election.Alive, Settings: k.Settings, Configuration: "0123456789abcdef", Unheard: []string{"node6", "node7"},
		Blocked: k.Blocked, BlockedSince: began.Truncate(time.Second),
		Interfaces: []lb.Interface{{Name: "eth0", MAC: lb.MAC{2, 0, 0, 0, 0, 1}, Up: true, Carrier: true, Addresses: prefixes("192.0.2.0/24", "2001:db8::/64")}},
		Answers:    []netip.Addr{addr("203.0.113.7"), addr("2001:db8::80"), addr("2001:db8::81")},
		Probing:    []netip.Addr{addr("203.0.113.8"), addr("2001:db8::90")},
		Withheld:   map[netip.Addr]lb.MAC{addr("2001:db8::91"): {2, 0, 0, 0, 0, 0x99}},
		Conflicts:  []report.Conflict{{Address: addr("2001:db8::80"), MAC: lb.MAC{2, 0, 0, 0, 0, 0x98}, Node: "node9", Heard: "reply", At: moment}},
		Proofs: []proof.Result{
			{Address: addr("203.0.113.20"), Owner: "node3", Kind: proof.Verified},
			{Address: addr("203.0.113.21"), Owner: "node3", Kind: proof.Verified},
			{Address: addr("203.0.113.22"), Owner: "node3", Kind: proof.AnsweredTwice, Since: moment, By: twice},
			{Address: addr("203.0.113.23"), Owner: "node3", Kind: proof.AnsweredTwice, Since: moment, By: twice},
			{Address: addr("2001:db8::23"), Owner: "node4", Kind: proof.Unanswered, Since: moment},
		},
		Transitions: []report.Transition{
			{Since: moment, From: "node2", Addresses: []netip.Addr{addr("2001:db8::80"), addr("2001:db8::81")}},
			{Since: moment.Add(time.Minute), Addresses: []netip.Addr{addr("203.0.113.7")}},
		},
		Sessions: []report.Session{
			{Peer: "away", Error: "connection refused by 2001:db8::1", Remote: "2001:db8::1"},
			{Peer: "begun"},
			{Peer: "closed", Ours: true},
			{Peer: "fresh", Remote: "fe80::1%eth1"},
			{Peer: "locked", Error: "Secret tor does not exist"},
			{
				Peer: "tor", Established: true, Families: []lb.Family{lb.IPv6}, Error: "hold timer expired", Remote: "192.0.2.1",
				Waits: map[lb.Family]string{lb.IPv4: "what they say is longer than a message of this session"},
			},
			{Peer: "unwatched", Established: true, Remote: "2001:db8::2"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read\n%+v\nwant\n%+v", got, want)
	}
	for state := range phases {
		k.State = state
		if got := Read(&v1beta1.SpeakerStatus{Status: Compose(k, v1beta1.SpeakerStatusStatus{})}); got.State != state || got.Mute {
			t.Errorf("%v is read as %v, mute %v", state, got.State, got.Mute)
		}
	}
}

// An older speaker says nothing of what it answers for, and nothing is made up. What
// nobody of ours wrote is left out.
func TestWhatIsNotSaidIsNotMadeUp(t *testing.T) {
	old := v1beta1.SpeakerStatusStatus{
		Version: "v0.0.1", Membership: v1beta1.MembershipStatus{Alive: 3}, Layer2: v1beta1.Layer2Status{Total: 5},
		BGP: v1beta1.BGPStatus{Up: 1, Total: 1, Sessions: []v1beta1.SessionStatus{
			{Peer: "tor", State: v1beta1.SessionEstablished, Capabilities: []string{"IPv6", "four-octet-as"}},
		}},
	}
	got := Read(&v1beta1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: old})
	if !got.Mute || got.State != election.Alive || len(got.Answers) != 0 {
		t.Errorf("%+v", got)
	}
	if s := got.Sessions; len(s) != 1 || !slices.Equal(s[0].Families, []lb.Family{lb.IPv6}) {
		t.Errorf("its session carries %+v", s)
	}
	odd := v1beta1.SpeakerStatusStatus{
		Phase: v1beta1.SpeakerRunning,
		Layer2: v1beta1.Layer2Status{
			Answers:   []v1beta1.Layer2Answers{{Addresses: []string{"nonsense"}}, {Addresses: []string{"2001:db8::1"}}},
			Withheld:  []v1beta1.AddressUse{{Address: "192.0.2.1", MAC: "nonsense"}, {Address: "nonsense", MAC: "02:00:00:00:00:01"}},
			Conflicts: []v1beta1.AddressConflict{{Address: "2001:db8::1", MAC: "02:00:00:00:00:01"}},
		},
	}
	got = Read(&v1beta1.SpeakerStatus{Status: odd})
	if !slices.Equal(got.Answers, []netip.Addr{netip.MustParseAddr("2001:db8::1")}) || len(got.Withheld) != 0 || len(got.Conflicts) != 0 {
		t.Errorf("%+v", got)
	}
}

// A stranger is asked again every half minute, and heard again.
func TestAStrangerThatStaysIsNoNews(t *testing.T) {
	k := world()
	before := Compose(k, v1beta1.SpeakerStatusStatus{})
	k.Withheld[netip.MustParseAddr("2001:db8::91")] = layer2.Heard{MAC: lb.MAC{2, 0, 0, 0, 0, 0x99}, Kind: layer2.HeardAnnouncement, At: began.Add(time.Hour)}
	if after := Compose(k, before); !reflect.DeepEqual(after, before) {
		t.Errorf("%+v\nafter\n%+v", after.Layer2, before.Layer2)
	}
	k.Withheld[netip.MustParseAddr("2001:db8::91")] = layer2.Heard{MAC: lb.MAC{2, 0, 0, 0, 0, 0x98}, At: began.Add(time.Hour)}
	if w := Compose(k, before).Layer2.Withheld; len(w) != 1 || w[0].MAC != "02:00:00:00:00:98" || !w[0].Since.Time.Equal(began.Add(time.Hour).Truncate(time.Microsecond)) {
		t.Errorf("another one: %+v", w)
	}
}

// Ten thousand addresses that are verified, again and again, are one short list that
// does not change.
func TestWhatIsVerifiedIsShortAndStays(t *testing.T) {
	k := world()
	k.Proofs = nil
	for n := range 10000 {
		k.Proofs = append(k.Proofs, proof.Result{Address: netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), Owner: "node3", Kind: proof.Verified})
	}
	s := Compose(k, v1beta1.SpeakerStatusStatus{})
	if v := s.Layer2.Verified; len(v) != 1 || len(v[0].Addresses) != 40 {
		t.Errorf("%d lists, %d elements", len(v), len(v[0].Addresses))
	}
	if again := Compose(k, s); !reflect.DeepEqual(again, s) {
		t.Error("it differs when nothing has changed")
	}
}

// What a node answers for and what it has verified is in its status whole, so that the
// status grows with the addresses, by a few bytes for each (docs/design/bounds.md). Here
// three nodes share them at random, and came by them on 64 occasions.
func TestAStatusTakesFewBytesForAnAddress(t *testing.T) {
	size := func(addresses int, six bool) int {
		k := world()
		k.Answers, k.Proofs = nil, nil
		rnd := rand.New(rand.NewPCG(1, 2))
		a := netip.MustParseAddr("198.18.0.0")
		if six {
			a = netip.MustParseAddr("2001:db8:1111:2222::")
		}
		for i := range addresses {
			a = a.Next()
			switch rnd.IntN(3) {
			case 0:
				k.Answers = append(k.Answers, core.Answer{
					Claim: layer2.Claim{Address: a, Interfaces: []int{k.Interfaces[0].Index}},
					Since: began.Add(time.Duration(i*64/addresses) * time.Minute), Cause: core.OwnerLost, From: "node2",
				})
			case 1:
				k.Proofs = append(k.Proofs, proof.Result{Address: a, Owner: "node2", Kind: proof.Verified})
			}
		}
		body, err := json.Marshal(Compose(k, v1beta1.SpeakerStatusStatus{}))
		if err != nil {
			t.Fatal(err)
		}
		return len(body)
	}
	for _, six := range []bool{false, true} {
		for n, most := range map[int]int{3: 8 << 10, 3000: 24 << 10, 30_000: 160 << 10} {
			if got := size(n, six); got > most {
				t.Errorf("%d addresses of three nodes, IPv6 %v: %d bytes, want at most %d", n, six, got, most)
			} else {
				t.Logf("%d addresses of three nodes, IPv6 %v: %d bytes", n, six, got)
			}
		}
	}
}
