package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"tarn/controlplane/client"
	"tarn/controlplane/identity"
)

// ClientConfig is client.toml: whom the command line talks to, and as whom.
type ClientConfig struct {
	// Addresses are host:port of control-plane nodes; one that answers is enough.
	Addresses []string `toml:"addresses"`
	// PKI is a directory with ca.pem, node.pem and node.key; relative to the file.
	PKI string `toml:"pki"`
	// TokenFile holds a user token, in place of a certificate; relative to the file.
	TokenFile string `toml:"token_file"`
	// Project is what an operator works in unless --project says otherwise.
	Project string `toml:"project"`
}

// LoadClientConfig reads client.toml. Unknown keys and missing ones are errors
// that name the key.
func LoadClientConfig(path string) (ClientConfig, error) {
	var cfg ClientConfig
	meta, err := toml.DecodeFile(path, &cfg)
	if err != nil {
		return cfg, fmt.Errorf("read %s: %w", path, err)
	}
	if extra := meta.Undecoded(); len(extra) > 0 {
		return cfg, fmt.Errorf("read %s: unknown key %q; known are addresses, pki, token_file, project", path, extra[0].String())
	}
	if len(cfg.Addresses) == 0 {
		return cfg, fmt.Errorf("read %s: addresses: at least one host:port is required", path)
	}
	if (cfg.PKI == "") == (cfg.TokenFile == "") {
		return cfg, fmt.Errorf("read %s: either pki, the directory with ca.pem, node.pem and node.key, or token_file is required", path)
	}
	for _, p := range []*string{&cfg.PKI, &cfg.TokenFile} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return cfg, nil
}

// configPath is the file in use: the flag, else the user's own.
func (a *app) configPath() string {
	if a.Config != "" {
		return a.Config
	}
	if dir := a.env["XDG_CONFIG_HOME"]; dir != "" {
		return filepath.Join(dir, "tarn", "client.toml")
	}
	return filepath.Join(a.env["HOME"], ".config", "tarn", "client.toml")
}

func dialConfigured(a *app) (*client.Client, error) {
	path := a.configPath()
	cfg, err := LoadClientConfig(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage("no client configuration at %s", path).
			next("set TARN_CONFIG to a client.toml; `tarn dev` writes one and prints the line")
	}
	if err != nil {
		return nil, usage("%w", err).next("docs/config.md lists every key")
	}
	if a.Project == "" {
		a.Project = cfg.Project
	}
	if cfg.TokenFile != "" {
		return a.dialWithToken(cfg)
	}
	material, err := identity.LoadMaterial(cfg.PKI)
	if err != nil {
		return nil, usage("%w", err).next("get certificate files with `tarn join TOKEN --dir %s`", cfg.PKI)
	}
	if end := material.NotAfter(); time.Now().After(end) {
		// The other side would only say that something is wrong with it.
		return nil, fail(exitNotAllowed, "the certificate in %s ended at %s", cfg.PKI, end.UTC().Format(time.RFC3339)).
			next("people's certificates are not renewed: `tarn pki issue %s --dir %s` makes another one where ca.key is, `tarn join TOKEN --dir %[2]s` one for a client; a token of `tarn user create` can last for a year",
				material.Identity().Role, cfg.PKI)
	}
	project := a.Project
	if material.Identity().Role != identity.RoleOperator {
		project = ""
	}
	return client.New(client.Config{
		Addresses: cfg.Addresses,
		TLS:       material.ClientConfig(identity.RoleControl),
		Project:   project,
		Reason:    a.Because,
		Logger:    a.logger(),
	})
}

// dialWithToken is for users without a certificate: the token pins the authority.
func (a *app) dialWithToken(cfg ClientConfig) (*client.Client, error) {
	text, err := os.ReadFile(cfg.TokenFile)
	if err != nil {
		return nil, usage("token_file: %w", err).next("have an operator make a token: tarn user create NAME")
	}
	token, err := identity.ParseUserToken(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, usage("token_file %s: %w", cfg.TokenFile, err)
	}
	return client.New(client.Config{
		Addresses: cfg.Addresses, TLS: token.ClientConfig(), Token: token.Reveal(), Project: a.Project, Reason: a.Because, Logger: a.logger(),
	})
}

// WriteClientConfig writes client.toml for cfg, readable by its owner only.
func WriteClientConfig(path string, cfg ClientConfig) error {
	data, err := toml.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("encode client configuration: %w", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write client configuration: %w", err)
	}
	return nil
}
