package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
)

// BGPObjects are the objects of BGP to compile, in any order.
type BGPObjects struct {
	Peers          []*v1beta1.BGPPeer
	Advertisements []*v1beta1.BGPAdvertisement
	Communities    []*v1beta1.Community
	BFDProfiles    []*v1beta1.BFDProfile
	// Passwords are the Secrets of the install namespace that peers may name, by
	// name.
	Passwords map[string]PasswordSecret
}

// A PasswordSecret is what matters of a Secret.
type PasswordSecret struct {
	// Type is the Secret's.
	Type string
	// Password is what it has under the key password; Present says whether it
	// has that key.
	Password lb.Secret
	Present  bool
}

// Equal reports whether both are the same to a peer.
func (s PasswordSecret) Equal(o PasswordSecret) bool {
	return s.Type == o.Type && s.Present == o.Present && s.Password.Equal(o.Password)
}

// A BGPConfig is what BGPObjects mean. Peers and advertisements are sorted by
// name, the findings by kind and name.
type BGPConfig struct {
	Peers          []lb.BGPPeer
	Advertisements []lb.BGPAdvertisement
	Findings       []Finding
}

const (
	// basicAuth is the type of Secret that holds a peer's password.
	basicAuth = "kubernetes.io/basic-auth"
	// maxPassword is what Linux takes for TCP MD5 (TCP_MD5SIG_MAXKEYLEN).
	maxPassword = 80
	// maxBFDKey is what a key of SHA-1 may have (RFC 5880 section 4.4), maxBFDKeys
	// how many a profile may.
	maxBFDKey, maxBFDKeys = 20, 4
)

var (
	unsupportedBGPPeer = []unsupported[v1beta1.BGPPeerSpec]{
		{
			"spec.bfdProfile",
			func(s *v1beta1.BGPPeerSpec) bool { return s.BFDProfile != "" && s.VRF != "" },
			"BFD is not run through a VRF device: the session relies on its hold time",
		},
	}
	unsupportedBGPAdvertisement []unsupported[v1beta1.BGPAdvertisementSpec]
	unsupportedBFDProfile       = []unsupported[v1beta1.BFDProfileSpec]{
		{
			"spec.echoMode",
			func(s *v1beta1.BFDProfileSpec) bool { return s.EchoMode },
			"the echo function is not there: sessions detect failures by control packets alone, at the intervals of this profile",
		},
	}
)

// CompileBGP compiles the objects of BGP and compares them with each other and
// with the names of pools. Nothing depends on the order of the objects.
//
// A peer that cannot be understood holds no session; one whose password cannot
// be had is handed on without it, so that a session which runs goes on. Of two
// peers for one router and the same nodes the younger does not apply. An
// advertisement that names a community which does not exist is advertised
// without it: to withdraw the routes would be worse.
func CompileBGP(o BGPObjects, pools map[string]bool) BGPConfig {
	var c BGPConfig
	profiles := map[string]*lb.BFDProfile{}
	for _, p := range o.BFDProfiles {
		profile, problems := BFDProfile(p, o.Passwords)
		profiles[p.Name] = &profile
		c.Findings = append(c.Findings, Finding{"BFDProfile", p.Name, p.Generation, problems})
	}
	communities, findings := communityNames(o.Communities)
	c.Findings = append(c.Findings, findings...)

	known := map[string]bool{}
	var peers []compiledPeer
	for _, p := range o.Peers {
		known[p.Name] = true
		peer, problems, usable := BGPPeer(p, o.Passwords)
		if name := string(p.Spec.BFDProfile); name != "" {
			if peer.BFD = profiles[name]; peer.BFD == nil {
				problems = append(problems, Problem{"spec.bfdProfile", v1beta1.ReasonUnknownName, fmt.Sprintf("there is no BFDProfile %s; the session runs without BFD", name)})
			}
		}
		peers = append(peers, compiledPeer{peer, usable, Finding{"BGPPeer", p.Name, p.Generation, problems}})
	}
	rivals(peers)
	for _, p := range peers {
		if p.usable {
			c.Peers = append(c.Peers, p.peer)
		}
		c.Findings = append(c.Findings, p.finding)
	}
	for _, a := range o.Advertisements {
		ad, problems := BGPAdvertisement(a, communities)
		problems = append(problems, unknownPools(a.Spec.IPAddressPools, pools)...)
		for i, n := range a.Spec.Peers {
			if !known[string(n)] {
				problems = append(problems, Problem{fmt.Sprintf("spec.peers[%d]", i), v1beta1.ReasonUnknownName, fmt.Sprintf("there is no BGPPeer %s; it is advertised to once there is", n)})
			}
		}
		c.Advertisements = append(c.Advertisements, ad)
		c.Findings = append(c.Findings, Finding{"BGPAdvertisement", a.Name, a.Generation, problems})
	}
	slices.SortFunc(c.Peers, func(a, b lb.BGPPeer) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Advertisements, func(a, b lb.BGPAdvertisement) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return c
}

type compiledPeer struct {
	peer    lb.BGPPeer
	usable  bool
	finding Finding
}

// rivals leaves each router with the oldest peer that is for it and for the same
// nodes, and tells the others. Peers whose nodes are not written the same way
// may or may not meet; whether they do is known on the node.
func rivals(peers []compiledPeer) {
	slices.SortFunc(peers, func(a, b compiledPeer) int {
		return cmp.Or(a.peer.Created.Compare(b.peer.Created), cmp.Compare(a.peer.Name, b.peer.Name))
	})
	for i := range peers {
		for _, older := range peers[:i] {
			young := &peers[i]
			if young.usable && older.usable && young.peer.SameRouter(older.peer) && reflect.DeepEqual(young.peer.NodeSelectors, older.peer.NodeSelectors) {
				young.usable = false
				young.finding.Problems = append(young.finding.Problems, Problem{
					"spec.peerAddress", v1beta1.ReasonConflict,
					fmt.Sprintf("the older BGPPeer %s is for the same router and nodes; this one holds no session", older.peer.Name),
				})
			}
		}
	}
}

// BGPPeer compiles a BGPPeer by itself, BFD left aside. Usable is false when it
// does not say whom to hold a session with.
func BGPPeer(p *v1beta1.BGPPeer, passwords map[string]PasswordSecret) (peer lb.BGPPeer, problems []Problem, usable bool) {
	spec := &p.Spec
	add := func(p ...Problem) { problems = append(problems, p...) }
	usable = true
	fatal := func(field, format string, args ...any) {
		add(invalid(field, format, args...))
		usable = false
	}
	peer = lb.BGPPeer{
		Name: p.Name, Created: p.CreationTimestamp.Time,
		Interface: string(spec.Interface), EBGPMultiHop: spec.EBGPMultiHop, TTLSecurity: int(spec.TTLSecurity),
		VRF: string(spec.VRF), Shutdown: spec.Shutdown, ShutdownMessage: spec.ShutdownMessage, MaximumPrefixes: int(spec.MaximumPrefixes),
	}

	asn := func(field string, n v1beta1.ASN) uint32 {
		if n < 1 || n > 4294967294 || n == 23456 || n == 65535 {
			fatal(field, "%d cannot be the number of an autonomous system", n)
			return 0
		}
		return uint32(n)
	}
	peer.MyASN = asn("spec.myASN", spec.MyASN)
	if spec.LocalASN != 0 {
		peer.LocalASN = asn("spec.localASN", spec.LocalASN)
	}
	switch {
	case (spec.PeerASN != 0) == (spec.DynamicASN != ""):
		fatal("spec.peerASN", "exactly one of peerASN and dynamicASN must be set")
	case spec.PeerASN != 0:
		peer.PeerASN = asn("spec.peerASN", spec.PeerASN)
	case spec.DynamicASN == v1beta1.DynamicASNInternal:
		peer.Kind = lb.PeerInternal
	case spec.DynamicASN == v1beta1.DynamicASNExternal:
		peer.Kind = lb.PeerExternal
	default:
		fatal("spec.dynamicASN", "%q is neither internal nor external", spec.DynamicASN)
	}

	address := func(field string, text v1beta1.PeerAddress) netip.Addr {
		a, err := peerAddress(string(text))
		if err != nil {
			fatal(field, "%q: %v", text, err)
		}
		return a
	}
	switch {
	case (spec.PeerAddress != "") == (spec.Interface != ""):
		fatal("spec.peerAddress", "exactly one of peerAddress and interface must be set")
	case spec.PeerAddress != "":
		peer.Address = address("spec.peerAddress", spec.PeerAddress)
	}
	if spec.SourceAddress != "" {
		peer.Source = address("spec.sourceAddress", spec.SourceAddress)
		if peer.Source.IsValid() && peer.Address.IsValid() && peer.Source.Is4() != peer.Address.Is4() {
			fatal("spec.sourceAddress", "must be of the same family as peerAddress")
		}
	}
	peer.Port = 179
	switch {
	case spec.PeerPort < 0 || spec.PeerPort > 65535:
		fatal("spec.peerPort", "%d is not from 1 to 65535", spec.PeerPort)
	case spec.PeerPort > 0:
		peer.Port = uint16(spec.PeerPort)
	}
	if spec.RouterID != "" {
		id, err := netip.ParseAddr(spec.RouterID)
		if err != nil || !id.Is4() || id.IsUnspecified() {
			add(invalid("spec.routerID", "%q is not written like an IPv4 address other than 0.0.0.0; one is derived from the node", spec.RouterID))
		} else {
			peer.RouterID = id
		}
	}

	timer := func(field string, d v1beta1.Duration, least, most, otherwise time.Duration) time.Duration {
		if d == "" {
			return otherwise
		}
		t, err := ParseDuration(d)
		switch {
		case err != nil:
			add(invalid(field, "%v", err))
		case t == 0 && least <= 3*time.Second && field == "spec.holdTime":
			return 0
		case t < least || t > most || t%time.Second != 0 && field != "spec.connectTime":
			add(invalid(field, "%s is not from %v to %v in whole seconds", d, least, most))
		default:
			return t
		}
		return otherwise
	}
	const seconds = time.Second
	peer.HoldTime = timer("spec.holdTime", spec.HoldTime, 3*seconds, 65535*seconds, 90*seconds)
	peer.KeepaliveTime = timer("spec.keepaliveTime", spec.KeepaliveTime, seconds, 21845*seconds, 0)
	if 3*peer.KeepaliveTime > peer.HoldTime {
		add(invalid("spec.keepaliveTime", "must be at most a third of holdTime, so that a message that is lost does not end the session; a third is used"))
		peer.KeepaliveTime = 0
	}
	if spec.Role != "" {
		role, ok := roles[spec.Role]
		switch {
		case !ok:
			add(invalid("spec.role", "%q is none of provider, rs, rs-client, customer and peer; no role is told", spec.Role))
		case peer.Kind == lb.PeerInternal || peer.Kind == lb.PeerFixed && peer.PeerASN == peer.LocalAS():
			add(invalid("spec.role", "needs a router of another autonomous system; no role is told"))
		default:
			peer.Role = role
		}
	}
	if peer.RequireRole = spec.RequireRole && peer.Role != lb.NoRole; spec.RequireRole && spec.Role == "" {
		add(invalid("spec.requireRole", "needs role; none is required"))
	}
	peer.ConnectTime = timer("spec.connectTime", spec.ConnectTime, seconds, 65535*seconds, 0)
	if g := spec.GracefulRestart; g != nil && g.Enabled {
		peer.GracefulRestart = &lb.GracefulRestart{
			RestartTime: timer("spec.gracefulRestart.restartTime", g.RestartTime, seconds, 4095*seconds, 120*seconds),
			LongLived:   timer("spec.gracefulRestart.longLived", g.LongLived, 0, 16777215*seconds, 0),
		}
	}

	for i, f := range spec.AddressFamilies {
		family, ok := families[f]
		if !ok {
			add(invalid(fmt.Sprintf("spec.addressFamilies[%d]", i), "%q is neither IPv4 nor IPv6", f))
		} else if !slices.Contains(peer.Families, family) {
			peer.Families = append(peer.Families, family)
		}
	}
	slices.Sort(peer.Families)
	var wrong []Problem
	peer.NodeSelectors, wrong = Selectors("spec.nodeSelectors", spec.NodeSelectors)
	add(wrong...)
	if s := spec.PasswordSecret; s != nil {
		var problem *Problem
		if peer.Password, problem = password("spec.passwordSecret", string(s.Name), passwords, maxPassword, "TCP MD5", "no session is attempted without the password"); problem != nil {
			peer.PasswordFault = problem.Why
			add(*problem)
		}
	}
	return peer, append(problems, unsupportedIn(spec, unsupportedBGPPeer)...), usable
}

var roles = map[v1beta1.Role]lb.Role{
	v1beta1.RoleProvider: lb.RoleProvider, v1beta1.RoleRS: lb.RoleRS, v1beta1.RoleRSClient: lb.RoleRSClient,
	v1beta1.RoleCustomer: lb.RoleCustomer, v1beta1.RolePeer: lb.RolePeer,
}

var families = map[v1beta1.AddressFamily]lb.Family{v1beta1.IPv4: lb.IPv4, v1beta1.IPv6: lb.IPv6}

// peerAddress parses the address of an end of a session.
func peerAddress(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || a.Zone() != "" || a.Is4In6():
		return netip.Addr{}, errors.New("want an IPv4 or IPv6 address, without zone and not IPv4-mapped")
	case a.IsUnspecified() || a.IsMulticast():
		return netip.Addr{}, errors.New("must not be the unspecified or a multicast address")
	case a.Is6() && a.IsLinkLocalUnicast():
		return netip.Addr{}, errors.New("must not be link-local: name the interface instead")
	default:
		return a, nil
	}
}

// password returns the password in a Secret that a field names, or why there is none
// and what becomes of that. Its user takes so many bytes.
func password(field, name string, secrets map[string]PasswordSecret, most int, user, without string) (lb.Secret, *Problem) {
	fault := func(reason v1beta1.Reason, format string, args ...any) (lb.Secret, *Problem) {
		why := fmt.Sprintf("Secret %s ", name) + fmt.Sprintf(format, args...) + "; " + without
		return lb.Secret{}, &Problem{field, reason, why}
	}
	s, ok := secrets[name]
	switch n := len(s.Password.Reveal()); {
	case !ok:
		return fault(v1beta1.ReasonSecretMissing, "does not exist")
	case s.Type != basicAuth:
		return fault(v1beta1.ReasonSecretInvalid, "has the type %q, not %s", s.Type, basicAuth)
	case !s.Present:
		return fault(v1beta1.ReasonSecretInvalid, "has no key password")
	case n == 0:
		return fault(v1beta1.ReasonSecretInvalid, "has an empty password")
	case n > most:
		return fault(v1beta1.ReasonSecretInvalid, "has a password of %d bytes, %s takes at most %d", n, user, most)
	default:
		return s.Password, nil
	}
}

// BGPAdvertisement compiles a BGPAdvertisement by itself; communities are what
// names stand for, nil for one that is defined twice.
func BGPAdvertisement(a *v1beta1.BGPAdvertisement, communities map[string]*lb.Community) (lb.BGPAdvertisement, []Problem) {
	spec := &a.Spec
	ad := lb.BGPAdvertisement{
		Name: a.Name, Created: a.CreationTimestamp.Time, Scope: lb.Scope{Pools: texts(spec.IPAddressPools)}, Peers: texts(spec.Peers),
		WeightByEndpoints: spec.WeightByEndpoints,
	}
	var problems, wrong []Problem
	add := func(p ...Problem) { problems = append(problems, p...) }
	ad.PoolSelectors, wrong = Selectors("spec.ipAddressPoolSelectors", spec.IPAddressPoolSelectors)
	add(wrong...)
	ad.ServiceSelectors, wrong = Selectors("spec.serviceSelectors", spec.ServiceSelectors)
	add(wrong...)
	ad.NodeSelectors, wrong = Selectors("spec.nodeSelectors", spec.NodeSelectors)
	add(wrong...)
	length := func(field string, n int32, most int) int {
		switch {
		case n == 0:
			return most
		case n < 0 || int(n) > most:
			add(invalid(field, "%d is not from 1 to %d", n, most))
			return most
		default:
			return int(n)
		}
	}
	ad.AggregationLength = length("spec.aggregationLength", spec.AggregationLength, 32)
	ad.AggregationLengthV6 = length("spec.aggregationLengthV6", spec.AggregationLengthV6, 128)
	metric := func(field string, n *int64) *uint32 {
		switch {
		case n == nil:
			return nil
		case *n < 0 || *n > 4294967295:
			add(invalid(field, "%d is not from 0 to 4294967295", *n))
			return nil
		default:
			return new(uint32(*n))
		}
	}
	ad.LocalPref = metric("spec.localPref", spec.LocalPref)
	ad.MED = metric("spec.med", spec.MED)
	if ad.ASPathPrepend = int(spec.ASPathPrepend); ad.ASPathPrepend < 0 || ad.ASPathPrepend > 10 {
		add(invalid("spec.asPathPrepend", "%d is not from 0 to 10", ad.ASPathPrepend))
		ad.ASPathPrepend = 0
	}
	for i, text := range spec.Communities {
		field := fmt.Sprintf("spec.communities[%d]", i)
		c, err := lb.ParseCommunity(string(text))
		if err != nil {
			named, known := communities[string(text)]
			switch {
			case known && named == nil:
				add(Problem{field, v1beta1.ReasonDuplicateName, fmt.Sprintf("the name %s is defined twice; the addresses are advertised without it", text)})
				continue
			case known:
				c = *named
			case communityName(string(text)):
				add(Problem{field, v1beta1.ReasonUnknownName, fmt.Sprintf("there is no community %s; the addresses are advertised without it", text)})
				continue
			default:
				add(invalid(field, "%v", err))
				continue
			}
		}
		switch {
		case c == lb.LLGRStale:
			add(Problem{field, v1beta1.ReasonUnsupported, fmt.Sprintf("%v (LLGR_STALE) is what routers give to routes that they keep for a neighbor that is away (RFC 9494); the addresses are advertised without it", c)})
		case !slices.Contains(ad.Communities, c):
			ad.Communities = append(ad.Communities, c)
		}
	}
	return ad, append(problems, unsupportedIn(spec, unsupportedBGPAdvertisement)...)
}

// communityName reports whether text has the form of a name rather than of a
// community.
func communityName(text string) bool {
	return text != "" && (text[0] >= 'a' && text[0] <= 'z' || text[0] >= 'A' && text[0] <= 'Z') && !slices.Contains([]byte(text), ':')
}

// communityNames collects what names stand for. A name that is defined twice,
// in two objects or in one, stands for nothing.
func communityNames(objects []*v1beta1.Community) (map[string]*lb.Community, []Finding) {
	names := map[string]*lb.Community{}
	owners := map[string][]string{}
	for _, o := range objects {
		for _, alias := range o.Spec.Communities {
			owners[alias.Name] = append(owners[alias.Name], o.Name)
		}
	}
	var findings []Finding
	for _, o := range objects {
		var problems []Problem
		for i, alias := range o.Spec.Communities {
			field := fmt.Sprintf("spec.communities[%d]", i)
			c, err := lb.ParseCommunity(alias.Value)
			_, taken := lb.ParseCommunity(alias.Name)
			switch others := slices.DeleteFunc(slices.Clone(owners[alias.Name]), func(n string) bool { return n == o.Name }); {
			case taken == nil || !communityName(alias.Name):
				problems = append(problems, invalid(field+".name", "%q cannot be the name of a community", alias.Name))
			case err != nil:
				problems = append(problems, invalid(field+".value", "%v", err))
			case len(others) > 0:
				slices.Sort(others)
				problems = append(problems, Problem{field + ".name", v1beta1.ReasonDuplicateName, fmt.Sprintf("%s is also defined by the Community %s; neither counts", alias.Name, others[0])})
				names[alias.Name] = nil
			case len(owners[alias.Name]) > 1:
				problems = append(problems, Problem{field + ".name", v1beta1.ReasonDuplicateName, fmt.Sprintf("%s is defined twice here; neither counts", alias.Name)})
				names[alias.Name] = nil
			default:
				names[alias.Name] = &c
			}
		}
		findings = append(findings, Finding{"Community", o.Name, o.Generation, problems})
	}
	return names, findings
}

// BFDProfile compiles a BFDProfile. One of whose keys cannot be had is handed on
// with that fault, so that what runs goes on.
func BFDProfile(p *v1beta1.BFDProfile, passwords map[string]PasswordSecret) (lb.BFDProfile, []Problem) {
	spec := &p.Spec
	var problems []Problem
	within := func(field string, n, least, most, otherwise int32) int32 {
		switch {
		case n == 0:
			return otherwise
		case n < least || n > most:
			problems = append(problems, invalid(field, "%d is not from %d to %d", n, least, most))
			return otherwise
		default:
			return n
		}
	}
	interval := func(field string, n, otherwise int32) time.Duration {
		return time.Duration(within(field, n, 10, 60000, otherwise)) * time.Millisecond
	}
	profile := lb.BFDProfile{
		Name:             p.Name,
		Receive:          interval("spec.receiveInterval", spec.ReceiveInterval, 300),
		Transmit:         interval("spec.transmitInterval", spec.TransmitInterval, 300),
		DetectMultiplier: uint8(within("spec.detectMultiplier", spec.DetectMultiplier, 2, 50, 3)),
		Passive:          spec.PassiveMode,
		MinimumTTL:       uint8(within("spec.minimumTtl", spec.MinimumTTL, 1, 254, 254)),
		Echo:             spec.EchoMode,
		EchoInterval:     interval("spec.echoInterval", spec.EchoInterval, 50),
	}
	if a := spec.Authentication; a != nil {
		wrong := bfdKeys(a, passwords, &profile)
		if len(wrong) > 0 {
			profile.KeyFault = wrong[0].Why
		}
		problems = append(problems, wrong...)
	}
	return profile, append(problems, unsupportedIn(spec, unsupportedBFDProfile)...)
}

// bfdKeys compiles the authentication of a profile.
func bfdKeys(a *v1beta1.BFDAuthentication, passwords map[string]PasswordSecret, profile *lb.BFDProfile) (problems []Problem) {
	switch a.Type {
	case "", v1beta1.BFDMeticulousKeyedSHA1:
		profile.Authentication = lb.BFDMeticulousKeyedSHA1
	case v1beta1.BFDKeyedSHA1:
		profile.Authentication = lb.BFDKeyedSHA1
	default:
		problems = append(problems, invalid("spec.authentication.type", "%q is neither %s nor %s", a.Type, v1beta1.BFDKeyedSHA1, v1beta1.BFDMeticulousKeyedSHA1))
	}
	if n := len(a.Keys); n == 0 || n > maxBFDKeys {
		problems = append(problems, invalid("spec.authentication.keys", "there are %d keys, want 1 to %d", n, maxBFDKeys))
	}
	ids := map[int32]bool{}
	for i, k := range a.Keys {
		field := fmt.Sprintf("spec.authentication.keys[%d]", i)
		switch {
		case k.ID < 0 || k.ID > 255:
			problems = append(problems, invalid(field+".id", "%d is not from 0 to 255", k.ID))
		case ids[k.ID]:
			problems = append(problems, invalid(field+".id", "%d is the ID of another key", k.ID))
		}
		ids[k.ID] = true
		text, problem := password(field+".passwordSecret", string(k.PasswordSecret.Name), passwords, maxBFDKey, "BFD", "BFD does not begin without the key")
		if problem != nil {
			problems = append(problems, *problem)
		}
		profile.Keys = append(profile.Keys, lb.BFDKey{ID: uint8(k.ID), Password: text})
	}
	return problems
}
