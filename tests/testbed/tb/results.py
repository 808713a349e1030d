# SPDX-License-Identifier: Apache-2.0
"""Unpacks what the command left in /results.

The stream is spooled to a nameless file and unpacked at the end: only regular files, directories and
symbolic links, only below the destination. The tests are ours, but what they run is not.
"""

import os
import shutil
import tarfile
import tempfile

from . import config


class Results:
    def __init__(self, destination):
        self.destination = destination
        self.spool = tempfile.TemporaryFile()

    def feed(self, data):
        if self.destination:
            self.spool.write(data)

    def unpack(self):
        """Returns the number of files brought back."""
        if not self.destination or self.spool.tell() == 0:
            return 0
        try:
            return self.unpack_tar()
        except tarfile.TarError as error:  # the run was cut off while they came
            config.say("the results are incomplete: %s" % error)
            return 0

    def unpack_tar(self):
        self.spool.seek(0)
        os.makedirs(self.destination, exist_ok=True)
        top = os.path.realpath(self.destination)
        count = 0
        with tarfile.open(fileobj=self.spool, mode="r|") as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                target = os.path.join(top, name)
                parent = os.path.realpath(os.path.dirname(target))
                if name.startswith(("/", "..")) or (parent != top and not parent.startswith(top + "/")):
                    config.say("result %r leads out of the results directory: left out" % member.name)
                elif member.isdir():
                    os.makedirs(target, exist_ok=True)
                elif member.isreg():
                    if os.path.lexists(target):
                        os.unlink(target)
                    with tar.extractfile(member) as source, open(target, "xb") as file:
                        shutil.copyfileobj(source, file)
                    os.chmod(target, member.mode & 0o777 | 0o600)
                    count += 1
                elif member.issym():
                    if os.path.lexists(target):
                        os.unlink(target)
                    os.symlink(member.linkname, target)
                elif member.islnk():
                    source = os.path.join(top, os.path.normpath(member.linkname))
                    if os.path.realpath(source).startswith(top + "/") and os.path.isfile(source):
                        shutil.copy2(source, target)
                        count += 1
        return count
