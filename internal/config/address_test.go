package config

import (
	"path"
	"strings"
	"testing"
)

func TestAddressesAreParsedInEveryFormOfTheContract(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":                  "192.0.2.1",
		"2001:db8::1":                "2001:db8::1",
		"2001:DB8:0::1":              "2001:db8::1",
		"64:ff9b::192.0.2.1":         "64:ff9b::c000:201",
		"192.0.2.0/30":               "192.0.2.0-192.0.2.3",
		"192.0.2.1/32":               "192.0.2.1",
		"2001:db8::/126":             "2001:db8::-2001:db8::3",
		"2001:db8::7/128":            "2001:db8::7",
		"192.0.2.9-192.0.2.10":       "192.0.2.9-192.0.2.10",
		"192.0.2.9-192.0.2.9":        "192.0.2.9",
		"192.0.2.9 - 192.0.2.10":     "192.0.2.9-192.0.2.10",
		"192.0.2.9\t-   192.0.2.10":  "192.0.2.9-192.0.2.10",
		"2001:db8::9 - 2001:db8::10": "2001:db8::9-2001:db8::10",
		"2001:db8::-2001:DB8:0::":    "2001:db8::",
		"128.0.0.0-223.255.255.255":  "128.0.0.0-223.255.255.255",
		"240.0.0.0-255.255.255.254":  "240.0.0.0-255.255.255.254",
		"169.254.1.0/24":             "169.254.1.0-169.254.1.255",
		"2000::/3":                   "2000::-3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
		"fc00::-fe7f:ffff::":         "fc00::-fe7f:ffff::",
	} {
		r, err := ParseAddressRange(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: %v, %v; want %s", text, r, err, want)
		}
	}
}

func TestWhatIsNoAddressOfAServiceIsRefusedInWords(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "want an address",
		"edge":                          "want an address",
		" 192.0.2.1":                    "want an address",
		"192.0.2.256":                   "want an address",
		"192.0.2.01":                    "want an address",
		"192.0.2":                       "want an address",
		"192.0.2.0/33":                  "want an address",
		"192.0.2.0/024":                 "want an address",
		"192.0.2.0/":                    "want an address",
		"192.0.2.0 /24":                 "want an address",
		"2001:db8::/129":                "want an address",
		"2001:db8::1::2":                "want an address",
		"192.0.2.1-":                    "want an address",
		"-192.0.2.1":                    "want an address",
		"-":                             "want an address",
		"192.0.2.1-192.0.2.3-192.0.2.9": "want an address",
		"192.0.2.0/24-192.0.3.0/24":     "want an address",
		"192.0.2.1,192.0.2.2":           "want an address",
		"192.0.2.1/24":                  "192.0.2.0/24, or a range",
		"2001:db8::1/64":                "2001:db8::/64, or a range",
		"192.0.2.1-2001:db8::1":         "same family",
		"2001:db8::1-192.0.2.1":         "same family",
		"192.0.2.10-192.0.2.9":          "must not be above",
		"2001:db8::10-2001:db8::9":      "must not be above",
		"fe80::1%eth0":                  "no zone",
		"2001:db8::1%eth0-2001:db8::2":  "no zone",
		"::ffff:192.0.2.1":              "as 192.0.2.1",
		"::ffff:192.0.2.0/120":          "as 192.0.2.0",
		"0.0.0.0/0":                     "unspecified",
		"0.0.0.7":                       "unspecified",
		"127.0.0.1":                     "loopback",
		"10.0.0.0-200.0.0.0":            "loopback",
		"224.0.0.1":                     "multicast",
		"200.0.0.0-250.0.0.0":           "multicast",
		"255.255.255.255":               "broadcast",
		"::/0":                          "unspecified",
		"::1":                           "loopback",
		"::2-1::":                       "IPv4-mapped",
		"fe80::1":                       "link-local",
		"fec0::1":                       "link-local",
		"fd00::-fe80::":                 "link-local",
		"ff02::1":                       "multicast",
	} {
		r, err := ParseAddressRange(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error that says %q", text, r, err, want)
		}
	}
}

func FuzzParseAddressRange(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.1", "192.0.2.0/24", "192.0.2.1/24", "192.0.2.1 - 192.0.2.9", "2001:db8::/64", "2001:db8::1-2001:db8::f",
		"::ffff:192.0.2.1", "fe80::1%eth0", "0.0.0.0/0", "-", "/", "192.0.2.9-192.0.2.1", "1.2.3.4-2001:db8::",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseAddressRange(text)
		if err != nil {
			return
		}
		if r.First.BitLen() != r.Last.BitLen() || r.Last.Less(r.First) || r.First.Is4In6() || r.First.Zone() != "" || r.Last.Is4In6() || r.Last.Zone() != "" {
			t.Errorf("%q is accepted as %v", text, r)
		}
		for _, a := range []struct{ is bool }{{r.First.IsMulticast()}, {r.Last.IsMulticast()}, {r.First.IsLoopback()}, {r.Last.IsLoopback()}, {r.First.IsUnspecified()}} {
			if a.is {
				t.Errorf("%q is accepted as %v, which no Service can have", text, r)
			}
		}
		if again, err := ParseAddressRange(r.String()); err != nil || again != r {
			t.Errorf("%q is %v, which is %v, %v", text, r, again, err)
		}
	})
}

func FuzzCheckInterface(f *testing.F) {
	for _, seed := range []string{"eth0", "eth[0-3]", "en*", "[", "[^]", "a]", `a\`, "[a-]", "averylonginterfacename", "br-[^a-c]?"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		if CheckInterface(pattern) != nil {
			return
		}
		if _, err := path.Match(pattern, "eth0"); err != nil {
			t.Errorf("%q is accepted: %v", pattern, err)
		}
		if !strings.ContainsAny(pattern, "*?[]") {
			if ok, _ := path.Match(pattern, pattern); !ok || len(pattern) > maxInterfaceName {
				t.Errorf("the name %q is accepted", pattern)
			}
		}
	})
}
