package export

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Bits of Ganesha's export options, as DisplayExport reports them for a client
// (nfs_exports.h; the same from 4.3 to 6.2).
const (
	ganeshaRootSquash = 0x2
	ganeshaAllSquash  = 0x4
	ganeshaRead       = 0x20 | 0x80
	ganeshaWrite      = 0x40 | 0x100
	ganeshaPrivileged = 0x200
	// ganeshaBits are those that this package decides.
	ganeshaBits = 0x1 | ganeshaRootSquash | ganeshaAllSquash | ganeshaRead | ganeshaWrite | ganeshaPrivileged
)

// ganeshaNobody is who squashed users become. Ganesha's own choice, -2, is no user
// that every file system takes.
const ganeshaNobody = 65534

// ganeshaClient is one client of an export, as Ganesha is told and as it answers.
type ganeshaClient struct {
	Prefix   netip.Prefix
	Bits     uint32
	UID, GID uint32 // of nobody
}

// errPrefix is Ganesha's own limit: its reader takes a prefix length of two digits.
var errPrefix = errors.New("NFS-Ganesha cannot be told an IPv6 prefix of /100 to /127: use /99 or shorter, or single addresses")

// ganeshaPrefix tells whether Ganesha can be told a prefix.
func ganeshaPrefix(p netip.Prefix) error {
	if p.Bits() > 99 && !p.IsSingleIP() {
		return errPrefix
	}
	return nil
}

// ganeshaClients are the clients of an export in the order in which Ganesha tries
// them: the first that contains an address counts, hence the most specific first.
func ganeshaClients(export Export, anyPort bool) []ganeshaClient {
	var out []ganeshaClient
	for _, c := range export.Clients {
		bits := uint32(ganeshaRead)
		if !c.ReadOnly {
			bits |= ganeshaWrite
		}
		if !anyPort {
			bits |= ganeshaPrivileged
		}
		switch export.Squash {
		case SquashRoot:
			bits |= ganeshaRootSquash
		case SquashAll:
			bits |= ganeshaAllSquash
		case SquashNone:
		}
		for _, p := range halves(c.Prefix) {
			out = append(out, ganeshaClient{Prefix: p, Bits: bits, UID: ganeshaNobody, GID: ganeshaNobody})
		}
	}
	return out
}

// ganeshaText is the export's own file. A client that no block names has no access.
func ganeshaText(export Export, clients []ganeshaClient) string {
	var b strings.Builder
	major, minor := fsidNumbers(export.FSID)
	fmt.Fprintf(&b, "# Written by the tarn agent, which owns this file: changes are lost.\nEXPORT {\n"+
		"\tExport_Id = %d;\n\tPath = \"%s\";\n\tPseudo = \"%s\";\n\tFilesystem_Id = %d.%d;\n"+
		"\tAccess_Type = None;\n\tProtocols = 4;\n\tTransports = TCP;\n\tSecType = sys;\n\tFSAL { Name = VFS; }\n",
		export.ID, export.Mountpoint, export.Mountpoint, major, minor)
	for _, c := range clients {
		fmt.Fprintf(&b, "\tCLIENT { Clients = %s; Access_Type = %s; Squash = %s; Anonymous_Uid = %d; Anonymous_Gid = %d; PrivilegedPort = %t; Protocols = 4; }\n",
			clientName(c.Prefix), ganeshaAccess(c.Bits), ganeshaSquash(c.Bits), c.UID, c.GID, c.Bits&ganeshaPrivileged != 0)
	}
	b.WriteString("}\n")
	return b.String()
}

func ganeshaAccess(bits uint32) string {
	if bits&ganeshaWrite != 0 {
		return "RW"
	}
	return "RO"
}

func ganeshaSquash(bits uint32) string {
	switch {
	case bits&ganeshaAllSquash != 0:
		return "all_squash"
	case bits&ganeshaRootSquash != 0:
		return "root_squash"
	}
	return "no_root_squash"
}

// fsidNumbers are the two halves that Ganesha wants of a UUID.
func fsidNumbers(fsid string) (major, minor uint64) {
	id, err := uuid.Parse(fsid)
	if err != nil {
		return 0, 0 // checkFSID was asked before
	}
	return binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
}

// exportID derives Ganesha's number of an export from the fsid: so it is the same
// at every start, unless another export has it. It is part of file handles. 0 is the pseudo file system's, and small ones are an administrator's.
func exportID(fsid string, taken func(uint16) bool) (uint16, error) {
	const first, last = 1024, 65535
	h := fnv.New32a()
	_, _ = h.Write([]byte(fsid))
	span := uint32(last - first + 1)
	for try := range span {
		id := uint16(first + (h.Sum32()+try)%span)
		if !taken(id) {
			return id, nil
		}
	}
	return 0, errors.New("all export ids of NFS-Ganesha are taken")
}

// ganeshaLayout are the files of a Ganesha that the agent runs.
type ganeshaLayout struct{ dir string }

func (l ganeshaLayout) config() string    { return filepath.Join(l.dir, "ganesha.conf") }
func (l ganeshaLayout) exports() string   { return filepath.Join(l.dir, "exports.d") }
func (l ganeshaLayout) recovery() string  { return filepath.Join(l.dir, "recovery") }
func (l ganeshaLayout) log() string       { return filepath.Join(l.dir, "ganesha.log") }
func (l ganeshaLayout) pidFile() string   { return filepath.Join(l.dir, "ganesha.pid") }
func (l ganeshaLayout) pid() string       { return filepath.Join(l.dir, "server.pid") }
func (l ganeshaLayout) busPID() string    { return filepath.Join(l.dir, "bus.pid") }
func (l ganeshaLayout) busConfig() string { return filepath.Join(l.dir, "bus.conf") }
func (l ganeshaLayout) busSocket() string { return filepath.Join(l.dir, "bus") }
func (l ganeshaLayout) busAddress() string {
	return "unix:path=" + l.busSocket()
}

// ganeshaConfig is the main configuration of a Ganesha that the agent runs:
// NFSv4 on one port, no rpcbind, nothing exported but the files of exports.d.
func ganeshaConfig(l ganeshaLayout, listen netip.AddrPort) string {
	return "# Written by the tarn agent, which owns this file: changes are lost.\n" +
		"NFS_CORE_PARAM {\n\tProtocols = 4;\n\tNFS_Port = " + strconv.Itoa(int(listen.Port())) + ";\n" +
		"\tBind_addr = " + listen.Addr().String() + ";\n\tEnable_UDP = false;\n\tEnable_NLM = false;\n\tEnable_RQUOTA = false;\n" +
		"\tmount_path_pseudo = true;\n}\n" +
		"NFSV4 {\n\tGraceless = true;\n\tRecoveryBackend = fs;\n\tRecoveryRoot = \"" + l.recovery() + "\";\n" +
		"\tMinor_Versions = 0,1,2;\n\tOnly_Numeric_Owners = true;\n}\n" +
		"EXPORT_DEFAULTS {\n\tAccess_Type = None;\n\tSecType = sys;\n\tProtocols = 4;\n\tTransports = TCP;\n}\n" +
		"LOG {\n\tDefault_Log_Level = EVENT;\n}\n" +
		"%dir \"" + l.exports() + "\"\n"
}

// ganeshaBus is the configuration of the private message bus over which the agent
// and its dead-man talk to their Ganesha: nobody but this user may connect.
func ganeshaBus(l ganeshaLayout, uid int) string {
	return "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n" +
		" \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n" +
		"<busconfig>\n<type>tarn</type>\n<listen>" + l.busAddress() + "</listen>\n<auth>EXTERNAL</auth>\n" +
		"<policy context=\"default\">\n<deny user=\"*\"/>\n<allow user=\"" + strconv.Itoa(uid) + "\"/>\n" +
		"<allow own=\"" + ganeshaName + "\"/>\n<allow send_destination=\"*\"/>\n<allow receive_sender=\"*\"/>\n</policy>\n</busconfig>\n"
}
