package gossip

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

func TestParseKeys(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, keySize), bytes.Repeat([]byte{2}, keySize)
	for name, test := range map[string]struct {
		text string
		want int
	}{
		"raw":        {string(one), 1},
		"hex":        {hex.EncodeToString(one) + "\n", 1},
		"base64":     {base64.StdEncoding.EncodeToString(one), 1},
		"two":        {hex.EncodeToString(one) + "\n\n" + base64.StdEncoding.EncodeToString(two) + "\n", 2},
		"none":       {"\n", 0},
		"short":      {"abcd\n", 0},
		"half right": {hex.EncodeToString(one) + "\nxyz\n", 0},
		"too many":   {strings.Repeat(hex.EncodeToString(one)+"\n", 5), 0},
	} {
		keys, err := ParseKeys([]byte(test.text))
		if len(keys) != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
		if test.want > 0 && !bytes.Equal(keys[0], one) {
			t.Errorf("%s: the first key is another", name)
		}
	}
}

// TestRotationByRestart restarts the members one by one with each of the three key
// files; at every moment those that run see each other.
func TestRotationByRestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		next := bytes.Repeat([]byte{9}, keySize)
		n := newMemNet()
		var hosts []*rig
		var configs []Config
		whole := func(what string) {
			within(t, 3*time.Minute, what, func() bool {
				for _, h := range hosts {
					if h.Stats().Alive != len(hosts) {
						return false
					}
				}
				return true
			})
		}
		for i := range 3 {
			configs = append(configs, testConfig(n, memAddr(i), memAddr(0), memAddr(1), memAddr(2)))
			hosts = append(hosts, start(t, configs[i]))
		}
		whole("before")
		for _, file := range [][][]byte{{testKey, next}, {next, testKey}, {next}} {
			for i := range hosts {
				hosts[i].stop(t)
				configs[i].Key, configs[i].OtherKeys = file[0], file[1:]
				configs[i].Transport = n.host(memAddr(i))
				hosts[i] = start(t, configs[i])
				whole("after the restart of one")
			}
		}
		// Who missed the last step is out, and nothing else happens.
		late := configs[2]
		late.Key, late.OtherKeys = testKey, nil
		hosts[2].stop(t)
		late.Transport = n.host(memAddr(2))
		out := start(t, late)
		within(t, 3*time.Minute, "the late one is missed", func() bool { return hosts[0].state(out.name()) == StateFailed })
		if hosts[0].Stats().Alive != 2 || out.Stats().Alive != 1 {
			t.Errorf("with an old key: %+v, %+v", hosts[0].Stats(), out.Stats())
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("abcd\n"))
	f.Add(bytes.Repeat([]byte{1}, keySize))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := ParseKeys(text)
		if err == nil && (len(keys) == 0 || len(keys) > maxKeys) {
			t.Errorf("%d keys", len(keys))
		}
		for _, k := range keys {
			if len(k) != keySize {
				t.Errorf("key of %d bytes", len(k))
			}
		}
	})
}
