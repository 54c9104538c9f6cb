package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
)

// peerObject returns a peer of the given age in minutes: the greater, the older.
func peerObject(name string, age int) *v1beta1.BGPPeer {
	return &v1beta1.BGPPeer{
		ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 2, CreationTimestamp: metav1.NewTime(epoch.Add(-time.Duration(age) * time.Minute))},
		Spec:       v1beta1.BGPPeerSpec{MyASN: 65000, PeerASN: 65001, PeerAddress: "2001:db8::1"},
	}
}

func findingOf(t *testing.T, c BGPConfig, kind, name string) Finding {
	t.Helper()
	for _, v := range c.Findings {
		if v.Kind == kind && v.Name == name {
			return v
		}
	}
	t.Fatalf("no finding about %s %s", kind, name)
	return Finding{}
}

func TestAnUnsetPeerFieldMeansWhatTheSchemaDefaultsItTo(t *testing.T) {
	got, problems, usable := BGPPeer(peerObject("tor", 0), nil)
	want := lb.BGPPeer{
		Name: "tor", Created: epoch, MyASN: 65000, PeerASN: 65001, Address: netip.MustParseAddr("2001:db8::1"),
		Port: 179, HoldTime: 90 * time.Second,
	}
	if !reflect.DeepEqual(got, want) || len(problems) > 0 || !usable {
		t.Errorf("%+v, %v, %v\nwant %+v", got, problems, usable, want)
	}
}

func TestEveryPeerFieldIsCompiled(t *testing.T) {
	p := peerObject("tor", 0)
	p.Spec = v1beta1.BGPPeerSpec{
		MyASN: 4200000000, DynamicASN: v1beta1.DynamicASNExternal, LocalASN: 65009, PeerAddress: "192.0.2.1", PeerPort: 1790,
		Role: v1beta1.RoleRSClient, RequireRole: true,
		SourceAddress: "192.0.2.10", RouterID: "10.0.0.1", HoldTime: "30s", KeepaliveTime: "5s", ConnectTime: "1m", EBGPMultiHop: true,
		TTLSecurity: 3, PasswordSecret: &v1beta1.SecretReference{Name: "pw"}, BFDProfile: "fast",
		GracefulRestart: &v1beta1.GracefulRestart{Enabled: true, RestartTime: "60s", LongLived: "1h"},
		AddressFamilies: []v1beta1.AddressFamily{v1beta1.IPv6, v1beta1.IPv4, v1beta1.IPv6},
		NodeSelectors:   []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"rack": "1"}}},
		Shutdown:        true, ShutdownMessage: "new cable", MaximumPrefixes: 50,
	}
	profile := &v1beta1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Spec: v1beta1.BFDProfileSpec{
		ReceiveInterval: 50, TransmitInterval: 60, DetectMultiplier: 5, PassiveMode: true, MinimumTTL: 250, EchoInterval: 70,
		Authentication: &v1beta1.BFDAuthentication{Type: v1beta1.BFDKeyedSHA1, Keys: []v1beta1.BFDKey{
			{ID: 255, PasswordSecret: v1beta1.SecretReference{Name: "new"}}, {ID: 0, PasswordSecret: v1beta1.SecretReference{Name: "pw"}},
		}},
	}}
	c := CompileBGP(BGPObjects{
		Peers: []*v1beta1.BGPPeer{p}, BFDProfiles: []*v1beta1.BFDProfile{profile},
		Passwords: map[string]PasswordSecret{
			"pw":  {Type: basicAuth, Password: lb.NewSecret("hunter2"), Present: true},
			"new": {Type: basicAuth, Password: lb.NewSecret("hunter3"), Present: true},
		},
	}, nil)
	want := lb.BGPPeer{
		Name: "tor", Created: epoch, MyASN: 4200000000, LocalASN: 65009, Kind: lb.PeerExternal, Address: netip.MustParseAddr("192.0.2.1"),
		Role: lb.RoleRSClient, RequireRole: true,
		Port: 1790, Source: netip.MustParseAddr("192.0.2.10"), RouterID: netip.MustParseAddr("10.0.0.1"),
		HoldTime: 30 * time.Second, KeepaliveTime: 5 * time.Second, ConnectTime: time.Minute, EBGPMultiHop: true, TTLSecurity: 3,
		Password: lb.NewSecret("hunter2"), GracefulRestart: &lb.GracefulRestart{RestartTime: time.Minute, LongLived: time.Hour},
		BFD: &lb.BFDProfile{
			Name: "fast", Receive: 50 * time.Millisecond, Transmit: 60 * time.Millisecond, DetectMultiplier: 5, Passive: true,
			MinimumTTL: 250, EchoInterval: 70 * time.Millisecond, Authentication: lb.BFDKeyedSHA1,
			Keys: []lb.BFDKey{{ID: 255, Password: lb.NewSecret("hunter3")}, {ID: 0, Password: lb.NewSecret("hunter2")}},
		},
		Families:      []lb.Family{lb.IPv4, lb.IPv6},
		NodeSelectors: []lb.Selector{{{Key: "rack", Operator: lb.In, Values: []string{"1"}}}},
		Shutdown:      true, ShutdownMessage: "new cable", MaximumPrefixes: 50,
	}
	if len(c.Peers) != 1 || !reflect.DeepEqual(c.Peers[0], want) {
		t.Errorf("%+v\nwant %+v", c.Peers, want)
	}
	for _, v := range c.Findings {
		if len(v.Problems) > 0 {
			t.Errorf("%s: %v", v.Kind, v.Problems)
		}
	}
	p.Spec.VRF = "blue"
	if got, problems, _ := BGPPeer(p, nil); got.VRF != "blue" || !slices.ContainsFunc(problems, func(p Problem) bool { return p.Field == "spec.bfdProfile" && p.Reason == v1beta1.ReasonUnsupported }) {
		t.Errorf("a peer in a VRF: %+v, %v", got, problems)
	}
	p.Spec.DynamicASN, p.Spec.PeerAddress, p.Spec.SourceAddress, p.Spec.Interface = v1beta1.DynamicASNInternal, "", "", "eth1"
	if got, problems, usable := BGPPeer(p, nil); got.Kind != lb.PeerInternal || got.Interface != "eth1" || got.Address.IsValid() || !usable {
		t.Errorf("a peer by interface: %+v, %v", got, problems)
	}
}

func TestEveryBGPAdvertisementFieldIsCompiled(t *testing.T) {
	zone := v1beta1.LabelSelector{MatchLabels: map[string]v1beta1.LabelValue{"zone": "a"}}
	want := []lb.Selector{{{Key: "zone", Operator: lb.In, Values: []string{"a"}}}}
	a := &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "ad", CreationTimestamp: metav1.NewTime(epoch)}}
	got, problems := BGPAdvertisement(a, nil)
	if w := (lb.BGPAdvertisement{Name: "ad", Created: epoch, AggregationLength: 32, AggregationLengthV6: 128}); !reflect.DeepEqual(got, w) || len(problems) > 0 {
		t.Errorf("an empty one: %+v, %v", got, problems)
	}
	a.Spec = v1beta1.BGPAdvertisementSpec{
		IPAddressPools: []v1beta1.ObjectName{"edge"}, IPAddressPoolSelectors: []v1beta1.LabelSelector{zone},
		ServiceSelectors: []v1beta1.LabelSelector{zone}, NodeSelectors: []v1beta1.LabelSelector{zone}, Peers: []v1beta1.ObjectName{"tor"},
		AggregationLength: 24, AggregationLengthV6: 64, LocalPref: new(int64(0)), MED: new(int64(4294967295)), ASPathPrepend: 3, WeightByEndpoints: true,
		Communities: []v1beta1.CommunityOrName{"65000:1", "large:1:2:3", "no-export", "ours", "65000:1"},
	}
	got, problems = BGPAdvertisement(a, map[string]*lb.Community{"ours": {A: 65000, B: 7}})
	if w := (lb.BGPAdvertisement{
		Name: "ad", Created: epoch, Scope: lb.Scope{Pools: []string{"edge"}, PoolSelectors: want, ServiceSelectors: want, NodeSelectors: want}, Peers: []string{"tor"},
		AggregationLength: 24, AggregationLengthV6: 64, LocalPref: new(uint32(0)), MED: new(uint32(4294967295)), ASPathPrepend: 3, WeightByEndpoints: true,
		Communities: []lb.Community{{A: 65000, B: 1}, {Large: true, A: 1, B: 2, C: 3}, lb.NoExport, {A: 65000, B: 7}},
	}); !reflect.DeepEqual(got, w) || len(problems) > 0 {
		t.Errorf("%+v, %v\nwant %+v", got, problems, w)
	}
}

// A field that is not looked at would be ignored in silence; so each is set by
// itself, and must make a difference.
func TestNoFieldOfBGPIsIgnored(t *testing.T) {
	check := func(kind string, spec reflect.Type, compile func(set func(reflect.Value)) any) {
		plain := compile(func(reflect.Value) {})
		for i := range spec.NumField() {
			field := spec.Field(i)
			got := compile(func(s reflect.Value) {
				if f := s.Field(i); f.Kind() == reflect.Int64 {
					f.SetInt(64999)
				} else {
					fill(t, f)
				}
			})
			if reflect.DeepEqual(got, plain) {
				t.Errorf("%s: setting %s makes no difference", kind, field.Name)
			}
		}
	}
	check("BGPPeer", reflect.TypeFor[v1beta1.BGPPeerSpec](), func(set func(reflect.Value)) any {
		p := peerObject("tor", 0)
		p.Spec.GracefulRestart = &v1beta1.GracefulRestart{Enabled: true}
		set(reflect.ValueOf(&p.Spec).Elem())
		return CompileBGP(BGPObjects{Peers: []*v1beta1.BGPPeer{p}}, nil)
	})
	check("GracefulRestart", reflect.TypeFor[v1beta1.GracefulRestart](), func(set func(reflect.Value)) any {
		p := peerObject("tor", 0)
		p.Spec.GracefulRestart = &v1beta1.GracefulRestart{}
		set(reflect.ValueOf(p.Spec.GracefulRestart).Elem())
		if p.Spec.GracefulRestart.RestartTime+p.Spec.GracefulRestart.LongLived != "" {
			p.Spec.GracefulRestart.Enabled = true
		}
		return CompileBGP(BGPObjects{Peers: []*v1beta1.BGPPeer{p}}, nil)
	})
	check("BGPAdvertisement", reflect.TypeFor[v1beta1.BGPAdvertisementSpec](), func(set func(reflect.Value)) any {
		a := &v1beta1.BGPAdvertisement{}
		set(reflect.ValueOf(&a.Spec).Elem())
		return CompileBGP(BGPObjects{Advertisements: []*v1beta1.BGPAdvertisement{a}}, nil)
	})
	check("BFDProfile", reflect.TypeFor[v1beta1.BFDProfileSpec](), func(set func(reflect.Value)) any {
		p := &v1beta1.BFDProfile{}
		set(reflect.ValueOf(&p.Spec).Elem())
		got, problems := BFDProfile(p, nil)
		return []any{got, problems}
	})
}

func TestEveryProblemOfBGPIsToldByItsField(t *testing.T) {
	p := peerObject("tor", 0)
	p.Spec = v1beta1.BGPPeerSpec{
		MyASN: 23456, LocalASN: -1, PeerASN: 65001, DynamicASN: "internal", PeerAddress: "fe80::1", SourceAddress: "192.0.2.1%eth0", PeerPort: 70000,
		RouterID: "0.0.0.0", HoldTime: "2s", KeepaliveTime: "1.5s", ConnectTime: "soon",
		GracefulRestart: &v1beta1.GracefulRestart{Enabled: true, RestartTime: "5000s", LongLived: "-1s"},
		AddressFamilies: []v1beta1.AddressFamily{"IPv5"}, NodeSelectors: []v1beta1.LabelSelector{{MatchExpressions: []v1beta1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}},
	}
	_, problems, usable := BGPPeer(p, nil)
	checkProblems(t, problems,
		`spec.myASN: 23456 cannot be`, `spec.localASN: -1 cannot be`, `spec.peerASN: exactly one of`, `spec.peerAddress: "fe80::1": must not be link-local`,
		`spec.sourceAddress: "192.0.2.1%eth0": want an`, `spec.peerPort: 70000 is not`, `spec.routerID: "0.0.0.0" is not`, `spec.holdTime: 2s is not`,
		`spec.keepaliveTime: 1.5s is not`, `spec.connectTime: "soon" is not`, `spec.gracefulRestart.restartTime: 5000s is not`,
		`spec.gracefulRestart.longLived: a duration must not be negative`, `spec.addressFamilies[0]: "IPv5" is neither`,
		`spec.nodeSelectors[0].matchExpressions[0].operator: "Near" is none of`)
	if usable {
		t.Error("a peer without an address is usable")
	}
	for _, c := range []struct {
		name  string
		spoil func(*v1beta1.BGPPeerSpec)
		want  string
	}{
		{"two addresses", func(s *v1beta1.BGPPeerSpec) { s.Interface = "eth0" }, "spec.peerAddress: exactly one of"},
		{"no address", func(s *v1beta1.BGPPeerSpec) { s.PeerAddress = "" }, "spec.peerAddress: exactly one of"},
		{"mapped", func(s *v1beta1.BGPPeerSpec) { s.PeerAddress = "::ffff:192.0.2.1" }, `spec.peerAddress: "::ffff:192.0.2.1": want an`},
		{"multicast", func(s *v1beta1.BGPPeerSpec) { s.PeerAddress = "224.0.0.5" }, `spec.peerAddress: "224.0.0.5": must not be`},
		{"another family", func(s *v1beta1.BGPPeerSpec) { s.SourceAddress = "192.0.2.1" }, "spec.sourceAddress: must be of the same family"},
		{"no ASN", func(s *v1beta1.BGPPeerSpec) { s.PeerASN = 0 }, "spec.peerASN: exactly one of"},
		{"a relation that is none", func(s *v1beta1.BGPPeerSpec) { s.PeerASN, s.DynamicASN = 0, "friend" }, `spec.dynamicASN: "friend" is neither`},
	} {
		p := peerObject("tor", 0)
		c.spoil(&p.Spec)
		_, problems, usable := BGPPeer(p, nil)
		checkProblems(t, problems, c.want)
		if usable {
			t.Errorf("%s: usable", c.name)
		}
	}
	p = peerObject("tor", 0)
	p.Spec.HoldTime, p.Spec.KeepaliveTime = "90s", "31s"
	got, problems, usable := BGPPeer(p, nil)
	checkProblems(t, problems, "spec.keepaliveTime: must be at most a third")
	if !usable || got.KeepaliveTime != 0 {
		t.Errorf("a keepalive time that is too long: %+v", got)
	}
	p.Spec.HoldTime, p.Spec.KeepaliveTime = "0s", ""
	if got, problems, _ := BGPPeer(p, nil); got.HoldTime != 0 || len(problems) > 0 {
		t.Errorf("hold time 0: %v, %v", got.HoldTime, problems)
	}

	p.Spec.RequireRole = true
	got, problems, usable = BGPPeer(p, nil)
	checkProblems(t, problems, "spec.requireRole: needs role")
	if !usable || got.RequireRole {
		t.Errorf("a required role without a role: %+v", got)
	}
	p.Spec.Role, p.Spec.PeerASN = v1beta1.RolePeer, p.Spec.MyASN
	got, problems, usable = BGPPeer(p, nil)
	checkProblems(t, problems, "spec.role: needs a router of another autonomous system")
	if !usable || got.RequireRole || got.Role != lb.NoRole {
		t.Errorf("a role towards our own system: %+v", got)
	}

	a := &v1beta1.BGPAdvertisement{Spec: v1beta1.BGPAdvertisementSpec{
		AggregationLength: 33, AggregationLengthV6: -1, LocalPref: new(int64(-1)), MED: new(int64(4294967296)), ASPathPrepend: 11,
		Communities: []v1beta1.CommunityOrName{"65536:1", "large:1:2", "1"},
	}}
	ad, problems := BGPAdvertisement(a, nil)
	checkProblems(t, problems,
		"spec.aggregationLength: 33 is not", "spec.aggregationLengthV6: -1 is not", "spec.localPref: -1 is not", "spec.med: 4294967296 is not",
		"spec.asPathPrepend: 11 is not", `spec.communities[0]: community "65536:1": 65536 does not fit`, `spec.communities[1]: community "large:1:2": want`, `spec.communities[2]: community "1": want`)
	if len(ad.Communities) != 0 || ad.AggregationLength != 32 || ad.LocalPref != nil {
		t.Errorf("%+v", ad)
	}
	// A route that says so is withdrawn by gobgp, by whatever name it says it.
	a = &v1beta1.BGPAdvertisement{Spec: v1beta1.BGPAdvertisementSpec{Communities: []v1beta1.CommunityOrName{"65535:6", "65535:7", "stale"}}}
	ad, problems = BGPAdvertisement(a, map[string]*lb.Community{"stale": {A: 65535, B: 6}})
	var fields []string
	for _, p := range problems {
		if p.Reason == v1beta1.ReasonUnsupported && strings.HasPrefix(p.Why, "65535:6 (LLGR_STALE) is what routers give") {
			fields = append(fields, p.Field)
		}
	}
	if !slices.Equal(fields, []string{"spec.communities[0]", "spec.communities[2]"}) || !slices.Equal(ad.Communities, []lb.Community{{A: 65535, B: 7}}) {
		t.Errorf("%+v, %v", ad, problems)
	}
	b := &v1beta1.BFDProfile{Spec: v1beta1.BFDProfileSpec{ReceiveInterval: 9, TransmitInterval: 60001, DetectMultiplier: 1, MinimumTTL: 255}}
	_, problems = BFDProfile(b, nil)
	checkProblems(t, problems, "spec.receiveInterval: 9 is not", "spec.transmitInterval: 60001 is not", "spec.detectMultiplier: 1 is not", "spec.minimumTtl: 255 is not")
	b = &v1beta1.BFDProfile{Spec: v1beta1.BFDProfileSpec{EchoMode: true}}
	if _, problems = BFDProfile(b, nil); len(problems) != 1 || problems[0].Reason != v1beta1.ReasonUnsupported || problems[0].Field != "spec.echoMode" {
		t.Errorf("echo: %v", problems)
	}
}

func TestAPasswordThatCannotBeHadIsNamed(t *testing.T) {
	long := lb.NewSecret(strings.Repeat("x", 81))
	for _, c := range []struct {
		name   string
		secret *PasswordSecret
		reason v1beta1.Reason
		want   string
	}{
		{"missing", nil, v1beta1.ReasonSecretMissing, "Secret pw does not exist"},
		{"of another type", &PasswordSecret{Type: "Opaque", Password: lb.NewSecret("hunter2"), Present: true}, v1beta1.ReasonSecretInvalid, `Secret pw has the type "Opaque", not kubernetes.io/basic-auth`},
		{"without the key", &PasswordSecret{Type: basicAuth}, v1beta1.ReasonSecretInvalid, "Secret pw has no key password"},
		{"empty", &PasswordSecret{Type: basicAuth, Present: true}, v1beta1.ReasonSecretInvalid, "Secret pw has an empty password"},
		{"too long", &PasswordSecret{Type: basicAuth, Password: long, Present: true}, v1beta1.ReasonSecretInvalid, "Secret pw has a password of 81 bytes"},
	} {
		p := peerObject("tor", 0)
		p.Spec.PasswordSecret = &v1beta1.SecretReference{Name: "pw"}
		o := BGPObjects{Peers: []*v1beta1.BGPPeer{p}, Passwords: map[string]PasswordSecret{}}
		if c.secret != nil {
			o.Passwords["pw"] = *c.secret
		}
		conf := CompileBGP(o, nil)
		v := findingOf(t, conf, "BGPPeer", "tor")
		if v.Reason() != c.reason || v.Accepted() || !strings.Contains(v.Message(), c.want) || strings.Contains(v.Message(), "hunter2") {
			t.Errorf("%s: %s %s", c.name, v.Reason(), v.Message())
		}
		// The peer is handed on, so that a session that runs goes on.
		if len(conf.Peers) != 1 || !conf.Peers[0].Password.Empty() || !strings.HasPrefix(conf.Peers[0].PasswordFault, c.want) {
			t.Errorf("%s: %+v", c.name, conf.Peers)
		}
	}
}

func TestAKeyOfBFDThatCannotBeHadIsNamed(t *testing.T) {
	keys := func(ids ...int32) (ks []v1beta1.BFDKey) {
		for _, id := range ids {
			ks = append(ks, v1beta1.BFDKey{ID: id, PasswordSecret: v1beta1.SecretReference{Name: "pw"}})
		}
		return ks
	}
	long := lb.NewSecret(strings.Repeat("x", 21))
	for _, c := range []struct {
		name   string
		a      v1beta1.BFDAuthentication
		secret *PasswordSecret
		want   string
	}{
		{"without a Secret", v1beta1.BFDAuthentication{Keys: keys(1)}, nil, "spec.authentication.keys[0].passwordSecret: Secret pw does not exist; BFD does not begin"},
		{"too long", v1beta1.BFDAuthentication{Keys: keys(1)}, &PasswordSecret{Type: basicAuth, Password: long, Present: true}, "spec.authentication.keys[0].passwordSecret: Secret pw has a password of 21 bytes, BFD takes at most 20"},
		{"of another kind", v1beta1.BFDAuthentication{Type: "MD5", Keys: keys(1)}, nil, `spec.authentication.type: "MD5" is neither`},
		{"without keys", v1beta1.BFDAuthentication{}, nil, "spec.authentication.keys: there are 0 keys"},
		{"twice the same ID", v1beta1.BFDAuthentication{Keys: keys(7, 7)}, nil, "spec.authentication.keys[1].id: 7 is the ID of another key"},
		{"an ID that is none", v1beta1.BFDAuthentication{Keys: keys(256)}, nil, "spec.authentication.keys[0].id: 256 is not from 0 to 255"},
	} {
		p := &v1beta1.BFDProfile{ObjectMeta: metav1.ObjectMeta{Name: "signed"}, Spec: v1beta1.BFDProfileSpec{Authentication: &c.a}}
		o := BGPObjects{BFDProfiles: []*v1beta1.BFDProfile{p}, Passwords: map[string]PasswordSecret{}}
		if c.secret != nil {
			o.Passwords["pw"] = *c.secret
		}
		conf := CompileBGP(o, nil)
		if v := findingOf(t, conf, "BFDProfile", "signed"); v.Accepted() || !strings.Contains(v.Message(), c.want) {
			t.Errorf("%s: %s", c.name, v.Message())
		}
		if profile, _ := BFDProfile(p, o.Passwords); profile.KeyFault == "" {
			t.Errorf("%s: %+v", c.name, profile)
		}
	}
	p := &v1beta1.BFDProfile{Spec: v1beta1.BFDProfileSpec{Authentication: &v1beta1.BFDAuthentication{Keys: keys(1)}}}
	if got, problems := BFDProfile(p, map[string]PasswordSecret{"pw": {Type: basicAuth, Password: lb.NewSecret("x"), Present: true}}); got.Authentication != lb.BFDMeticulousKeyedSHA1 || len(problems) > 0 {
		t.Errorf("%+v, %v", got, problems)
	}
}

func TestObjectsOfBGPAreComparedWithEachOther(t *testing.T) {
	community := func(name string, aliases ...v1beta1.CommunityAlias) *v1beta1.Community {
		return &v1beta1.Community{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta1.CommunitySpec{Communities: aliases}}
	}
	young, old, elsewhere, port := peerObject("a-young", 1), peerObject("z-old", 9), peerObject("elsewhere", 2), peerObject("port", 3)
	elsewhere.Spec.NodeSelectors = []v1beta1.LabelSelector{{MatchLabels: map[string]v1beta1.LabelValue{"rack": "2"}}}
	port.Spec.PeerPort = 1790
	young.Spec.BFDProfile = "missing"
	ad := &v1beta1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "ad"}, Spec: v1beta1.BGPAdvertisementSpec{
		IPAddressPools: []v1beta1.ObjectName{"edge", "gone"}, Peers: []v1beta1.ObjectName{"z-old", "nobody"},
		Communities: []v1beta1.CommunityOrName{"ours", "twice", "inside", "65000:1"},
	}}
	o := BGPObjects{
		Peers: []*v1beta1.BGPPeer{young, old, elsewhere, port}, Advertisements: []*v1beta1.BGPAdvertisement{ad},
		Communities: []*v1beta1.Community{
			community("one", v1beta1.CommunityAlias{Name: "ours", Value: "65000:7"}, v1beta1.CommunityAlias{Name: "twice", Value: "65000:8"}),
			community("two", v1beta1.CommunityAlias{Name: "twice", Value: "65000:8"}),
			community("three", v1beta1.CommunityAlias{Name: "inside", Value: "1:1"}, v1beta1.CommunityAlias{Name: "inside", Value: "1:2"}),
			community("four", v1beta1.CommunityAlias{Name: "no-export", Value: "1:1"}, v1beta1.CommunityAlias{Name: "odd", Value: "x"}),
		},
	}
	c := CompileBGP(o, map[string]bool{"edge": true})
	var names []string
	for _, p := range c.Peers {
		names = append(names, p.Name)
	}
	if want := []string{"elsewhere", "port", "z-old"}; !slices.Equal(names, want) {
		t.Errorf("sessions with %v, want %v", names, want)
	}
	if got := c.Advertisements[0].Communities; !slices.Equal(got, []lb.Community{{A: 65000, B: 7}, {A: 65000, B: 1}}) {
		t.Errorf("communities %v", got)
	}
	for _, w := range []struct {
		kind, name string
		reason     v1beta1.Reason
		text       string
	}{
		{"BGPPeer", "a-young", v1beta1.ReasonConflict, "the older BGPPeer z-old"},
		{"BGPPeer", "z-old", v1beta1.ReasonAccepted, ""},
		{"BGPPeer", "elsewhere", v1beta1.ReasonAccepted, ""},
		{"BGPPeer", "port", v1beta1.ReasonAccepted, ""},
		{"Community", "one", v1beta1.ReasonDuplicateName, "twice is also defined by the Community two"},
		{"Community", "two", v1beta1.ReasonDuplicateName, "twice is also defined by the Community one"},
		{"Community", "three", v1beta1.ReasonDuplicateName, "inside is defined twice here"},
		{"Community", "four", v1beta1.ReasonInvalid, `"no-export" cannot be the name`},
		{"BGPAdvertisement", "ad", v1beta1.ReasonDuplicateName, "spec.peers[1]: there is no BGPPeer nobody"},
	} {
		v := findingOf(t, c, w.kind, w.name)
		if v.Reason() != w.reason || !strings.Contains(v.Message(), w.text) {
			t.Errorf("%s %s: %s %s", w.kind, w.name, v.Reason(), v.Message())
		}
	}
	if m := findingOf(t, c, "BGPAdvertisement", "ad").Message(); !strings.Contains(m, "there is no IPAddressPool gone") {
		t.Error(m)
	}
	if m := findingOf(t, c, "BGPPeer", "a-young").Message(); !strings.Contains(m, "there is no BFDProfile missing") {
		t.Error(m)
	}
	// In any order.
	slices.Reverse(o.Peers)
	slices.Reverse(o.Communities)
	if again := CompileBGP(o, map[string]bool{"edge": true}); !reflect.DeepEqual(c, again) {
		t.Errorf("depends on input order:\n%v\n%v", c, again)
	}
}

func TestADumpOfTheConfigurationHoldsNoPassword(t *testing.T) {
	p := peerObject("tor", 0)
	p.Spec.PasswordSecret = &v1beta1.SecretReference{Name: "pw"}
	o := BGPObjects{Peers: []*v1beta1.BGPPeer{p}, Passwords: map[string]PasswordSecret{"pw": {Type: basicAuth, Password: lb.NewSecret("hunter2"), Present: true}}}
	c := CompileBGP(o, nil)
	if dump := fmt.Sprintf("%+v %#v %+v", c, c, o); strings.Contains(dump, "hunter2") || c.Peers[0].Password.Reveal() != "hunter2" {
		t.Errorf("%s", dump)
	}
}
