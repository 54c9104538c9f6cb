package lb

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretIsNeverShown(t *testing.T) {
	peer := BGPPeer{Name: "tor", Password: NewSecret("hunter2")}
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "peer", peer, "password", peer.Password)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "peer", peer, "password", peer.Password)
	js, err := json.Marshal(peer)
	if err != nil {
		t.Fatal(err)
	}
	var dumped BGPPeer
	if err := json.Unmarshal(js, &dumped); err != nil || dumped.Name != "tor" || dumped.Password.Empty() {
		t.Errorf("a dump cannot be read: %+v, %v", dumped, err)
	}
	for _, shown := range []string{
		logged.String(), string(js),
		fmt.Sprint(peer), fmt.Sprintf("%v %+v %#v", peer, peer, peer),
		fmt.Sprintf("%#v %s %q %x %X %d %t", &peer, peer.Password, peer.Password, peer.Password, peer.Password, peer.Password, peer.Password),
		fmt.Sprintf("%v %+v %#v", struct{ p BGPPeer }{peer}, struct{ p BGPPeer }{peer}, struct{ p BGPPeer }{peer}),
	} {
		for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2")} {
			if strings.Contains(shown, leak) {
				t.Errorf("the password is shown: %s", shown)
			}
		}
	}
	if peer.Password.Reveal() != "hunter2" || peer.Password.Empty() || !NewSecret("").Empty() {
		t.Error("the password is lost")
	}
	if !peer.Password.Equal(NewSecret("hunter2")) || peer.Password.Equal(NewSecret("hunter3")) || peer.Password.Equal(Secret{}) {
		t.Error("secrets are not compared by their text")
	}
}

func TestCommunityFormsRoundTrip(t *testing.T) {
	for text, want := range map[string]Community{
		"65000:100":                     {A: 65000, B: 100},
		"0:0":                           {},
		"large:4200000000:1:4294967295": {Large: true, A: 4200000000, B: 1, C: 4294967295},
		"no-export":                     NoExport,
		"no-advertise":                  NoAdvertise,
		"graceful-shutdown":             GracefulShutdown,
		"blackhole":                     Blackhole,
		"no-peer":                       NoPeer,
		"large:0:0:0":                   {Large: true},
	} {
		got, err := ParseCommunity(text)
		if err != nil || got != want {
			t.Errorf("ParseCommunity(%q) = %+v, %v", text, got, err)
		}
		if got.String() != text {
			t.Errorf("%q prints as %q", text, got)
		}
	}
	if c, err := ParseCommunity("65535:65281"); err != nil || c != NoExport {
		t.Errorf("the number of no-export: %v, %v", c, err)
	}
	for _, bad := range []string{"", ":", "1", "1:2:3", "65536:1", "1:65536", "-1:1", "+1:1", "a:b", "large:1:2", "large:1:2:4294967296", "0x1:2", " 1:2", "large:1:2:3:4", "64512", "No-Export"} {
		if c, err := ParseCommunity(bad); err == nil {
			t.Errorf("ParseCommunity(%q) = %v", bad, c)
		}
	}
}

func FuzzParseCommunity(f *testing.F) {
	for _, s := range []string{"65000:1", "large:1:2:3", "no-export", "65536:1", "large:", "::", "1:2:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCommunity(s)
		if err != nil {
			return
		}
		if again, err := ParseCommunity(c.String()); err != nil || again != c {
			t.Errorf("%q is %+v, which prints as %q, which is %+v, %v", s, c, c, again, err)
		}
	})
}
