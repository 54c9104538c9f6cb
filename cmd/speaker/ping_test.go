package main

import (
	"strings"
	"testing"
)

func TestPingRuleTellsWhatIsWrongWithItsFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"no interface"}},
		{[]string{"--interface=eth0"}, []string{"no address"}},
		{[]string{"--address=192.0.2.0/24"}, []string{"no interface"}},
		{[]string{"--interface=eth0", "--address=192.0.2.0/33,2001:db8::/200"}, []string{"192.0.2.0/33", "2001:db8::/200"}},
		{[]string{"--interface=eth0", "192.0.2.1"}, []string{`unexpected argument "192.0.2.1"`}},
		{[]string{"--interfaces=eth0"}, []string{"unknown flag"}},
	} {
		err := pingRule(c.args)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v: %v, want %q in it", c.args, err, want)
			}
		}
	}
}
